//! Pods of a real container runtime: containerd, runc and the reference CNI plugins.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use agent_common::{Endpoint, toa};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::{Agent, Config, binary, truepeer};
use tests::eventually;
use tests::host::scenario;
use tests::raw::Raw;
use tests::report::Seen;
use tests::runtime::{Node, Pod, Runtime, Spec, own_mounts};
use tests::topology::Family;

const PROGRAM: &str = env!("CARGO_BIN_EXE_playground");
const APPLICATION: u16 = 8080;

/// A scenario with a runtime, whose pods are connected by the reference plugins and then by these.
fn with_runtime(more: &[Value], body: impl FnOnce(&Path, &Node, &Runtime) -> Result<()> + Send) {
    scenario(|directory| {
        own_mounts(|| {
            let hosts = Node::new()?;
            let network = Node::network(more);
            let program = Path::new(PROGRAM);
            let runtime = Runtime::start(directory, &hosts.node, program, &network, &binary()?)?;
            body(directory, &hosts, &runtime)?;
            runtime.assert_nothing_left()
        })
    });
}

/// A pod whose container `app` tells each client whom it sees.
fn application(runtime: &Runtime, spec: &Spec) -> Result<Pod> {
    let pod = runtime.run_pod(spec)?;
    runtime.run_container(&pod, "app", &["report", &format!("[::]:{APPLICATION}")])?;
    Ok(pod)
}

/// Waits until each of the pod's addresses has a listener.
fn wait_until_it_listens(hosts: &Node, pod: &Pod, port: u16) -> Result<()> {
    for address in &pod.addresses {
        let what = format!("{address} listens on {port}");
        eventually(&what, Duration::from_secs(10), || {
            let connect = || std::net::TcpStream::connect((*address, port));
            Ok(hosts.node.enter(connect).ok())
        })?;
    }
    Ok(())
}

/// One pod is older than the agent, the other is not.
#[test]
fn connections_have_the_names_of_their_pods() {
    with_runtime(&[], |directory, hosts, runtime| {
        let old = application(runtime, &Spec::new("shop", "web-0"))?;
        wait_until_it_listens(hosts, &old, APPLICATION)?;
        let mut config = Config::new(directory, [])?;
        config.trust.sources = vec!["198.51.100.0/24".into(), "2001:db8:1b::/64".into()];
        let agent = Agent::start(directory, config)?;
        let new = application(runtime, &Spec::new("shop", "web-1"))?;
        wait_until_it_listens(hosts, &new, APPLICATION)?;

        let raw = Raw::new(&hosts.client)?;
        let mut connections = Vec::new();
        for (pod, name) in [(&old, "web-0"), (&new, "web-1")] {
            for address in &pod.addresses {
                let target = SocketAddr::new(*address, APPLICATION);
                let (source, client, option) = told(Family::of(target))?;
                let mut connection = raw.connect(source, target, 1, &option)?;
                let seen: Seen = serde_json::from_str(&connection.receive()?)?;
                ensure!(
                    seen.accepted == client,
                    "{name}: {client} was seen as {seen:?}"
                );
                let peers = agent.peers()?;
                let peer = peers.find(target, source).context("no peer")?;
                let names = [&peer.namespace, &peer.pod, &peer.container].map(Option::as_deref);
                ensure!(names == [Some("shop"), Some(name), Some("app")], "{peer:?}");
                connections.push(connection);
            }
        }
        let file = agent.config().agent.socket.with_file_name("truepeer.toml");
        let file = file.display().to_string();
        let listed = || -> Result<String> {
            let output = truepeer(&["peers", "--config", &file])?;
            Ok(String::from_utf8(output.stdout)?)
        };
        ensure!(
            listed()?.matches("shop/web-0/app").count() == 2,
            "{}",
            listed()?
        );

        for connection in connections {
            connection.reset()?;
        }
        let lines = eventually("four lines", Duration::from_secs(5), || {
            let lines = agent.access_log()?;
            Ok((lines.len() == 4).then_some(lines))
        })?;
        for line in &lines {
            ensure!(
                line["namespace"] == "shop" && line["container"] == "app",
                "{line}"
            );
        }
        for name in ["web-0", "web-1"] {
            let of_pod = lines.iter().filter(|line| line["pod"] == name);
            ensure!(of_pod.count() == 2, "{lines:?}");
            let labels = format!(r#"{{namespace="shop",pod="{name}",container="app"}}"#);
            let metric = format!("truepeer_pod_connections_total{labels}");
            ensure!(agent.metric(&metric)? == 2, "{metric}");
        }
        runtime.remove_pod(&old)?;
        runtime.remove_pod(&new)
    });
}

/// A load balancer, a client, and the option by which the one tells of the other.
fn told(family: Family) -> Result<(SocketAddr, SocketAddr, Vec<u8>)> {
    Ok(match family {
        Family::V4 => {
            let client: SocketAddr = "203.0.113.77:4711".parse()?;
            let option = toa::option_v4(254, Endpoint::from(client)).to_vec();
            ("198.51.100.1:40000".parse()?, client, option)
        }
        Family::V6 => {
            let client: SocketAddr = "[2001:db8:c::77]:4712".parse()?;
            let option = toa::option_v6(253, Endpoint::from(client)).to_vec();
            ("[2001:db8:1b::1]:40000".parse()?, client, option)
        }
    })
}
