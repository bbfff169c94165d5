//! Pods of a container runtime, with truepeer chained after the reference plugins.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::agent::{Agent, Config};
use tests::check::{known_to_application, no_origins, observed};
use tests::cni::{IFNAME, Node, Pod, Runtime, address, code};
use tests::host::{Traces, scenario};
use tests::load::Load;
use tests::process::Process;
use tests::proxy::any;
use tests::report::Report;
use tests::{envoy, eventually};

const APPLICATION: u16 = 8080;
/// That the plugin `portmap` maps to the application's.
const MAPPED: u16 = 18080;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;
const SOON: Duration = Duration::from_secs(5);

/// Every pod's port is steered to its sidecar.
fn sidecars() -> Value {
    json!({"steer": [{"name": "inbound", "ports": ["8080"], "to": PROXY}]})
}

/// A pod's sidecar and application.
struct Serving(#[expect(dead_code, reason = "stop on drop")] (Process, Report));

impl Serving {
    fn start(directory: &Path, pod: &Pod) -> Result<Self> {
        let application = Report::start(&pod.netns, any(APPLICATION))?;
        let proxy = envoy::transparent(directory, &pod.netns, PROXY, MARK)?;
        Ok(Self((proxy, application)))
    }
}

fn targets(result: &Value) -> Result<Vec<SocketAddr>> {
    [false, true]
        .map(|ipv6| Ok((address(result, ipv6)?, APPLICATION).into()))
        .into_iter()
        .collect()
}

/// Through the proxy, and the application sees the client.
fn all_through_proxy(node: &Node, targets: &[SocketAddr]) -> Result<()> {
    let outcome = Load::new(targets.iter().copied()).run(node.client());
    outcome.all_kept()?;
    ensure!(outcome.exact == 0, "not all through the proxy: {outcome:?}");
    Ok(())
}

/// Past the proxy, as if truepeer were absent.
fn all_direct(node: &Node, targets: &[SocketAddr]) -> Result<()> {
    Load::new(targets.iter().copied())
        .run(node.client())
        .all_exact()
}

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

        // Killed and started again, then stopped and started again.
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

        runtime.del(&pod)?;
        runtime.del(&pod)?;
        nothing_left(&agent)?;
        traces.assert_unchanged(&pod.netns.enter(Traces::here)?)?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// No pod is known, in no network namespace is anything to be done, and no file is there.
fn nothing_left(agent: &Agent) -> Result<()> {
    ensure!(agent.pods()?.is_empty(), "{:?}", agent.pods()?);
    let status = agent.status()?;
    ensure!(status["maps"][1]["entries"] == 0, "{status}");
    let links = status["links"].as_array().context("links")?;
    let inside = links
        .iter()
        .find(|link| link["target"].to_string().contains("network namespace"));
    ensure!(inside.is_none(), "{inside:?}");
    let files: Vec<_> = std::fs::read_dir(&agent.config().agent.pods)?.collect();
    ensure!(files.is_empty(), "{files:?}");
    Ok(())
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
fn without_an_agent_pods_start_unless_they_must_not() {
    scenario(|directory| {
        let node = Node::new()?;
        let config = Config::new(directory, [])?;
        let plugins = Runtime::ptp(directory);
        let open = Runtime::new(node.netns(), "1.0.0", &config, &plugins, sidecars());
        let mut rules = sidecars();
        rules["onAgentDown"] = "closed".into();
        let closed = Runtime::new(node.netns(), "1.0.0", &config, &plugins, rules);

        let refused = Pod::new("refused", &[])?;
        let outcome = closed.add(&refused);
        ensure!(code(&outcome) == Some(11), "{outcome:?}");
        closed.del(&refused)?;
        let gone = Pod::new("gone", &[])?;
        open.add(&gone)?;
        let pod = Pod::new("pod", &[])?;
        let traces = pod.netns.enter(Traces::here)?;
        let result = open.add(&pod)?;
        let targets = targets(&result)?;
        closed.adopt(&pod, result);
        open.check(&pod)?;
        let outcome = closed.check(&pod);
        ensure!(code(&outcome) == Some(11), "{outcome:?}");
        let _serving = Serving::start(directory, &pod)?;
        all_direct(&node, &targets)?;
        open.del(&gone)?;

        let agent = Agent::start(directory, config)?;
        ensure!(agent.pods()?.len() == 1, "{:?}", agent.pods()?);
        all_through_proxy(&node, &targets)?;
        closed.check(&pod)?;
        let config = agent.kill()?;
        open.del(&pod)?;
        let agent = Agent::start(directory, config)?;
        nothing_left(&agent)?;
        traces.assert_unchanged(&pod.netns.enter(Traces::here)?)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn what_is_stale_goes_and_is_never_anothers() {
    scenario(|directory| {
        let node = Node::new()?;
        let config = Config::new(directory, [])?;
        let runtime = Runtime::new(node.netns(), "1.1.0", &config, &[], sidecars());
        let agent = Agent::start(directory, config)?;
        let valid = added(&runtime, "valid")?;
        let stale = added(&runtime, "stale")?;
        runtime.gc(&[&valid, &stale])?;
        ensure!(agent.pods()?.len() == 2, "{:?}", agent.pods()?);
        runtime.gc(&[&valid])?;
        ensure!(agent.pods()?.len() == 1, "{:?}", agent.pods()?);
        let outcome = runtime.check(&stale);
        ensure!(code(&outcome) == Some(3), "{outcome:?}");

        // Another namespace at the same path is another pod's.
        let path = valid.netns.path();
        let bind = |from: &Path| {
            tests::netns::run(
                std::process::Command::new("mount")
                    .arg("--bind")
                    .arg(from)
                    .arg(&path),
            )
        };
        bind(&stale.netns.path())?;
        let outcome = runtime.check(&valid);
        ensure!(code(&outcome) == Some(100), "{outcome:?}");
        eventually("the pod goes with its namespace", SOON, || {
            Ok(agent.pods()?.is_empty().then_some(()))
        })?;
        nothing_left(&agent)?;
        let traces = Traces::here;
        stale
            .netns
            .enter(traces)?
            .assert_unchanged(&valid.netns.enter(traces)?)?;
        tests::netns::run(std::process::Command::new("umount").arg(&path))?;

        // What was there before a reboot is not there after it.
        runtime.add(&valid)?;
        let config = agent.kill()?;
        let file = config
            .agent
            .pods
            .join(format!("{}:{IFNAME}.json", valid.id));
        let mut state: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        state["boot_id"] = "of another boot".into();
        std::fs::write(&file, state.to_string())?;
        let agent = Agent::start(directory, config)?;
        nothing_left(&agent)?;
        runtime.del(&valid)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn a_hundred_pods_in_parallel_with_the_agent_restarted_in_between() {
    const PODS: usize = 100;
    const PARALLEL: usize = 4;
    scenario(|directory| {
        let node = Node::new()?;
        let config = Config::new(directory, [])?;
        let runtime = Runtime::new(node.netns(), "1.1.0", &config, &[], sidecars());
        let agent = Agent::start(directory, config)?;
        let pods = (0..PODS).map(|n| made(&runtime, &format!("pod{n}")));
        let pods = pods.collect::<Result<Vec<_>>>()?;
        let in_parallel = |act: &(dyn Fn(&Pod) -> Result<()> + Sync)| {
            std::thread::scope(|scope| {
                let some = pods.chunks(PODS / PARALLEL);
                let threads: Vec<_> = some
                    .map(|some| scope.spawn(|| some.iter().try_for_each(act)))
                    .collect();
                let mut outcomes = threads.into_iter().map(|thread| thread.join());
                outcomes.try_for_each(|outcome| outcome.expect("no thread panics"))
            })
        };
        let restarted = std::thread::scope(|scope| {
            let adding = scope.spawn(|| in_parallel(&|pod| runtime.add(pod).map(drop)));
            eventually("pods are being added", SOON, || {
                Ok((agent.pods()?.len() > PODS / 4).then_some(()))
            })?;
            let agent = Agent::start(directory, agent.kill()?)?;
            adding.join().expect("no thread panics")?;
            Ok::<_, anyhow::Error>(agent)
        });
        let agent = restarted?;
        eventually("every pod is served", SOON, || {
            let entries = &agent.status()?["maps"][1]["entries"];
            Ok((*entries == PODS && agent.pods()?.len() == PODS).then_some(()))
        })?;
        in_parallel(&|pod| runtime.check(pod))?;
        in_parallel(&|pod| runtime.del(pod))?;
        nothing_left(&agent)?;
        for pod in &pods {
            let rules = pod.netns.enter(|| {
                tests::netns::run(
                    std::process::Command::new("ip").args(["rule", "list", "pref", "133"]),
                )
            })?;
            ensure!(rules.is_empty(), "{}: {rules}", pod.id);
        }
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// A pod whose interface somebody else has made.
fn made(runtime: &Runtime<'_>, id: &str) -> Result<Pod> {
    let pod = Pod::new(id, &[])?;
    pod.netns.ip("link add eth0 type veth peer name other")?;
    runtime.adopt(
        &pod,
        json!({"cniVersion": "1.1.0", "interfaces": [{"name": IFNAME}]}),
    );
    Ok(pod)
}

fn added(runtime: &Runtime<'_>, id: &str) -> Result<Pod> {
    let pod = made(runtime, id)?;
    runtime.add(&pod)?;
    Ok(pod)
}
