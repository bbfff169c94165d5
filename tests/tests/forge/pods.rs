//! Pods that ask for as much as they can leave to others what they need.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use serde_json::json;
use tests::agent::{Agent, Config, Trust};
use tests::clients::tcp::{self, seen};
use tests::cluster::cni::{APPLICATION, Node, Pod, Runtime, nothing_left, targets};
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::v2;
use tests::servers::report::Report;
use tests::topology::Family;

/// Pods that have headers taken off on all ports, and one that needs a single port.
#[test]
fn a_pod_with_all_ports() {
    scenario(|directory| {
        let node = Node::new()?;
        let mut config = Config::new(directory, [])?;
        config
            .trust
            .extend(Trust::sources(["10.77.0.0/24", "fd77::/64"]));
        let plugins = Runtime::ptp(directory);
        let runtime = Runtime::new(node.netns(), "1.0.0", &config, &plugins, json!({}));
        let agent = Agent::start(directory, config)?;
        let mut pods = Vec::new();
        for (id, ports) in [("one", "1-65535"), ("two", "1-65535"), ("small", "8080")] {
            let pod = Pod::new(id, &[("truepeer.io/unwrap-ports", ports)])?;
            let result = runtime.add(&pod).with_context(|| format!("pod {id}"))?;
            let application = Report::start(&pod.netns, any(APPLICATION))?;
            for target in targets(&result)? {
                let client = SocketAddr::new(Family::of(target).client(6), 4711);
                let mut stream = tcp::connect(node.client(), target)?;
                stream.write_all(&v2(client, target))?;
                let seen = seen(&mut stream)?;
                ensure!(seen.accepted == client, "{id}: {seen:?}");
            }
            pods.push((pod, application));
        }
        for (pod, _) in &pods {
            runtime.check(pod)?;
            runtime.del(pod)?;
        }
        nothing_left(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
