//! Pods of a container runtime, with truepeer chained after the reference plugins.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::agent::records::{known_to_application, no_origins, none_refused, observed};
use tests::agent::{Agent, Config, Trust};
use tests::clients::load::Load;
use tests::clients::tcp;
use tests::cluster::cni::{
    APPLICATION, Node, Pod, Runtime, Serving, all_direct, all_through_proxy, code, nothing_left,
    sidecars, targets,
};
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::any;
use tests::proxies::proxy_header;
use tests::servers::report::{Report, Seen};
use tests::topology::Family;

/// The node's port that the plugin `portmap` maps to the application's.
const MAPPED: u16 = 18080;

/// A pod's whole life, through an agent's restarts.
fn lives(version: &'static str, before: fn(&Path) -> Vec<Value>, ports: &[u16]) {
    scenario(|directory| {
        let node = Node::new()?;
        let config = Config::new(directory, [])?;
        let runtime = Runtime::new(
            node.netns(),
            version,
            &config,
            &before(directory),
            sidecars(),
        );
        let pod = Pod::new("pod", &[])?;
        let traces = pod.netns.enter(Traces::here)?;
        let agent = Agent::start(directory, config)?;
        let result = runtime.add(&pod)?;
        ensure!(
            result["cniVersion"] == version,
            "the result of the plugins before: {result}"
        );
        let targets = targets(&result)?;
        let _serving = Serving::start(directory, &pod)?;
        all_through_proxy(&node, &targets)?;
        for port in ports {
            let mapped = SocketAddr::new([10, 77, 0, 2].into(), *port);
            all_through_proxy(&node, &[mapped])?;
        }
        observed(&agent, node.client(), &targets)?;
        if version != "0.3.1" {
            runtime.check(&pod)?;
        }

        // The agent is killed and started again, and then stopped and started again.
        let agent = Agent::start(directory, agent.kill()?)?;
        for connection in Load::new(targets.clone()).hold(node.client())? {
            known_to_application(&agent.peers()?, &connection)?;
        }
        let config = agent.config().clone();
        ensure!(agent.stop()?.success(), "the agent's exit status");
        all_direct(&node, &targets)?;
        traces.assert_unchanged(&pod.netns.enter(Traces::here)?)?;
        let agent = Agent::start(directory, config)?;
        all_through_proxy(&node, &targets)?;
        // Without its interface, a socket that is not quite closed would stay for minutes.
        no_origins(&agent)?;

        runtime.del(&pod)?;
        runtime.del(&pod)?;
        nothing_left(&agent)?;
        traces.assert_unchanged(&pod.netns.enter(Traces::here)?)?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn behind_bridge_and_portmap() {
    lives("1.0.0", Runtime::bridge, &[MAPPED]);
}

#[test]
fn behind_ptp() {
    lives("0.4.0", Runtime::ptp, &[]);
}

#[test]
fn behind_ptp_of_an_old_runtime() {
    lives("0.3.1", Runtime::ptp, &[]);
}

#[test]
fn annotations_go_before_the_network() {
    scenario(|directory| {
        let node = Node::new()?;
        let config = Config::new(directory, [])?;
        let plugins = Runtime::ptp(directory);
        let runtime = Runtime::new(node.netns(), "1.0.0", &config, &plugins, sidecars());
        let agent = Agent::start(directory, config)?;
        let steered = |pod: &Pod| -> Result<Vec<Value>> {
            let pods = agent.pods()?;
            let found = pods
                .iter()
                .find(|found| found["id"]["container_id"] == pod.id);
            let found = found.with_context(|| format!("{} in {pods:?}", pod.id))?;
            ensure!(found["pod"]["name"] == pod.id && found["pod"]["namespace"] == "tests");
            Ok(found["steer"].as_array().cloned().unwrap_or_default())
        };
        let other = Pod::new(
            "other",
            &[
                ("truepeer.io/steer-ports", "8080, 9000-9010"),
                ("truepeer.io/steer-to", "15007"),
                ("example.org/unrelated", "x"),
            ],
        )?;
        runtime.add(&other)?;
        let expected = json!({"name": "inbound", "ports": ["8080", "9000-9010"], "to": 15007});
        ensure!(steered(&other)? == [expected], "{:?}", steered(&other)?);

        let alone = Pod::new("alone", &[("truepeer.io/enabled", "false")])?;
        let result = runtime.add(&alone)?;
        ensure!(steered(&alone)?.is_empty(), "{:?}", steered(&alone)?);
        let _serving = Serving::start(directory, &alone)?;
        all_direct(&node, &targets(&result)?)?;

        for (key, value, part) in [
            (
                "truepeer.io/steer-ports",
                "80,x",
                "neither a port nor a range",
            ),
            ("truepeer.io/steer-ports", "0", "port 0 does not exist"),
            ("truepeer.io/steer-to", "http", "write a port"),
            ("truepeer.io/steer-to", "70000", "between 1 and 65535"),
            ("truepeer.io/enabled", "no", "write \"true\" or \"false\""),
            ("truepeer.io/steer", "80", "the annotations are"),
        ] {
            let wrong = Pod::new("wrong", &[(key, value)])?;
            let outcome = runtime.add(&wrong);
            ensure!(code(&outcome) == Some(7), "{key}={value}: {outcome:?}");
            let message = format!("{:?}", outcome.unwrap_err()).replace('\\', "");
            ensure!(message.contains(part), "{key}={value}: {message}");
            runtime.del(&wrong)?;
        }
        runtime.del(&other)?;
        runtime.del(&alone)?;
        nothing_left(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn an_annotation_takes_headers_off() {
    scenario(|directory| {
        let node = Node::new()?;
        let mut config = Config::new(directory, [])?;
        config
            .trust
            .extend(Trust::sources(["10.77.0.0/24", "fd77::/64"]));
        let plugins = Runtime::ptp(directory);
        let runtime = Runtime::new(node.netns(), "1.0.0", &config, &plugins, json!({}));
        let agent = Agent::start(directory, config)?;
        let pod = Pod::new("pod", &[("truepeer.io/unwrap-ports", "8080")])?;
        let result = runtime.add(&pod)?;
        let _application = Report::start(&pod.netns, any(APPLICATION))?;
        runtime.check(&pod)?;
        for target in targets(&result)? {
            let client = SocketAddr::new(Family::of(target).client(6), 4711);
            let mut stream = BufReader::new(tcp::connect(node.client(), target)?);
            stream
                .get_mut()
                .write_all(&proxy_header::v2(client, target))?;
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let seen: Seen = serde_json::from_str(&line)?;
            ensure!(
                seen.accepted == client && seen.peername == client,
                "{seen:?}"
            );
        }
        none_refused(&agent)?;
        runtime.del(&pod)?;
        nothing_left(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
