//! Pods of a real container runtime: containerd, runc and the reference CNI plugins.

mod stage;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::records::{known, known_to_application, no_origins};
use tests::agent::{Agent, Config, Trust, truepeer};
use tests::clients::load::Load;
use tests::clients::raw::{Raw, toa};
use tests::cluster::cni::{self, IFNAME, Node};
use tests::cluster::containerd::{Pod, Runtime, Spec};
use tests::servers::report::Seen;
use tests::topology::{Family, Sidecar};
use tests::variables::usual;
use tests::wait::{Limit, eventually, within};

use self::stage::{
    APPLICATION, ATTACHMENTS, agent, annotated, application, sidecar, truepeer_plugin,
    wait_until_it_listens, with_runtime,
};

const NODE_PORT: u16 = 30080;

/// What a link has that is attached in a pod.
const OF_POD: &str = "network namespace ";

/// One pod is older than the agent, the other is not.
#[test]
fn connections_have_the_names_of_their_pods() {
    with_runtime(&[], |directory, hosts, runtime| {
        let old = application(runtime, &Spec::new("shop", "web-0"))?;
        wait_until_it_listens(hosts, &old, APPLICATION)?;
        let mut config = Config::new(directory, [])?;
        config
            .trust
            .extend(Trust::sources(["198.51.100.0/24", "2001:db8:1b::/64"]));
        let agent = Agent::start(directory, config)?;
        let new = application(runtime, &Spec::new("shop", "web-1"))?;
        wait_until_it_listens(hosts, &new, APPLICATION)?;

        let raw = Raw::new(hosts.client())?;
        let mut connections = Vec::new();
        for (pod, name) in [(&old, "web-0"), (&new, "web-1")] {
            for address in &pod.addresses {
                let target = SocketAddr::new(*address, APPLICATION);
                let (source, client, option) = told(Family::of(target));
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
        let lines = eventually("four lines", || {
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

/// The application behind the proxy sees each client, and its socket has the pod's names.
fn shows_clients(agent: &Agent, hosts: &Node, pod: &Pod) -> Result<()> {
    let targets = pod.addresses.iter().map(|ip| (*ip, APPLICATION).into());
    let load = Load {
        concurrent: 10,
        ..Load::new(targets)
    };
    let connections = load.hold(hosts.client())?;
    let peers = agent.peers()?;
    for connection in &connections {
        known(&peers, connection)?;
        known_to_application(&peers, connection)?;
        let seen = &connection.seen;
        ensure!(seen.accepted.ip() == connection.client.ip(), "{seen:?}");
        let peer = peers.find(seen.local, seen.accepted);
        ensure!(
            peer.is_some_and(|peer| peer.container.as_deref() == Some("app")),
            "{peer:?}"
        );
    }
    drop(connections);
    no_origins(agent)
}

/// Waits until nothing is left of pods: no file, no link, no rule.
fn lets_go_of_all(agent: &Agent) -> Result<()> {
    let is_done = || nothing_is_left(agent);
    let done = eventually("all pods are let go", || Ok(is_done().ok()));
    done.or_else(|_| is_done())
}

fn nothing_is_left(agent: &Agent) -> Result<()> {
    let links = agent.status()?["links"].to_string();
    ensure!(!links.contains(OF_POD), "{links}");
    let files: Vec<_> = fs::read_dir(ATTACHMENTS)?.collect();
    ensure!(files.is_empty(), "{files:?}");
    // No journal is as good as an empty one.
    let journal = fs::read_to_string("/run/truepeer/journal.json").unwrap_or_default();
    ensure!(!journal.contains("/run/netns/"), "{journal}");
    Ok(())
}

#[test]
fn annotations_steer() {
    with_runtime(&[truepeer_plugin()], |directory, hosts, runtime| {
        let first = agent(directory)?;
        let mut spec = annotated("shop", "web-0");
        spec.ports = vec![(NODE_PORT, APPLICATION)];
        let pod = sidecar(hosts, runtime, &spec)?;
        shows_clients(&first, hosts, &pod)?;
        // Clients also come in by a port of the node, through the rules of `portmap`.
        let target = SocketAddr::new(Sidecar::address(Family::V4), NODE_PORT);
        let by_node = Load {
            concurrent: 1,
            ..Load::new([target])
        };
        for connection in by_node.hold(hosts.client())? {
            let seen = &connection.seen;
            ensure!(seen.accepted.ip() == connection.client.ip(), "{seen:?}");
        }
        let left_alone = application(runtime, &Spec::new("shop", "plain"))?;

        // What the plugin wrote outlives the agent.
        ensure!(first.stop()?.success(), "the agent failed");
        let second = agent(directory)?;
        shows_clients(&second, hosts, &pod)?;
        let third = Agent::start(directory, second.kill()?)?;
        shows_clients(&third, hosts, &pod)?;
        for pod in [&pod, &left_alone] {
            check(hosts, runtime, pod)?;
        }
        runtime.remove_pod(&left_alone)?;
        names_outlive_the_pod(&third, hosts, runtime, &pod)?;
        lets_go_of_all(&third)
    });
}

/// containerd never asks for CHECK; this is what libcni would pass on.
fn check(hosts: &Node, runtime: &Runtime, pod: &Pod) -> Result<()> {
    let cached = runtime.cached(pod)?;
    let interfaces = cached["result"]["interfaces"].as_array();
    let netns = interfaces.and_then(|all| all.last()?["sandbox"].as_str());
    let environment = [
        ("CNI_CONTAINERID", pod.id.clone()),
        ("CNI_NETNS", netns.context("no sandbox")?.to_owned()),
        ("CNI_IFNAME", IFNAME.to_owned()),
    ];
    let mut input = truepeer_plugin();
    input["cniVersion"] = cached["result"]["cniVersion"].clone();
    input["name"] = cached["networkName"].clone();
    input["prevResult"] = cached["result"].clone();
    input["runtimeConfig"] = cached["capabilityArgs"].clone();
    cni::run(
        hosts.netns(),
        "truepeer",
        "CHECK",
        &environment,
        &input.to_string(),
    )
    .map(drop)
}

/// Connections that end with their pod are logged with its names.
fn names_outlive_the_pod(agent: &Agent, hosts: &Node, runtime: &Runtime, pod: &Pod) -> Result<()> {
    let logged = agent.access_log()?.len();
    let load = Load {
        concurrent: 10,
        ..Load::new([SocketAddr::new(pod.addresses[0], APPLICATION)])
    };
    let connections = load.hold(hosts.client())?;
    runtime.remove_pod(pod)?;
    // The proxy's connections and the application's are logged.
    let expected = 2 * connections.len();
    let lines = eventually("all are logged", || {
        let lines = agent.access_log()?.split_off(logged);
        Ok((lines.len() >= expected).then_some(lines))
    })?;
    for name in ["app", "proxy"] {
        let named = |line: &&Value| line["pod"] == "web-0" && line["container"] == name;
        ensure!(
            lines.iter().filter(named).count() == expected / 2,
            "{lines:?}"
        );
    }
    Ok(())
}

/// Without the plugin, the agent finds and adopts pods by their annotations.
#[test]
fn pods_that_are_older_than_the_agent_are_adopted() {
    with_runtime(&[], |directory, hosts, runtime| {
        let pod = sidecar(hosts, runtime, &annotated("shop", "web-0"))?;
        let wrong = annotated("shop", "wrong").annotate("truepeer.io/steer-to", "proxy");
        let wrong = runtime.run_pod(&wrong)?;
        let agent = agent(directory)?;
        shows_clients(&agent, hosts, &pod)?;
        let log = agent.log()?;
        ensure!(
            log.contains("truepeer.io/steer-to") && log.contains("shop/wrong"),
            "{log}"
        );
        runtime.remove_pod(&pod)?;
        runtime.remove_pod(&wrong)?;
        lets_go_of_all(&agent)
    });
}

#[test]
fn a_hundred_pods_come_and_go_while_the_agent_does() {
    with_runtime(&[truepeer_plugin()], |directory, hosts, runtime| {
        let number = usual(100) as usize;
        let first = agent(directory)?;
        let spec = |n: usize| annotated("many", &format!("pod-{n}"));
        // The bridge is made, and one pod serves.
        let witness = sidecar(hosts, runtime, &spec(0))?;
        let (mut pods, second) = thread::scope(|scope| {
            let start = |n| scope.spawn(move || runtime.run_pod(&spec(n)));
            let pods: Vec<_> = (1..number).map(start).collect();
            wait_for_attachments(number / 2..=number)?;
            let second = Agent::start(directory, first.kill()?)?;
            let pods = pods.into_iter().map(|pod| pod.join().expect("no panic"));
            anyhow::Ok((pods.collect::<Result<Vec<_>>>()?, second))
        })?;
        wait_for_attachments(number..=number)?;
        eventually("all pods are served", || {
            let links = second.status()?["links"].to_string();
            Ok((links.matches(OF_POD).count() >= number).then_some(()))
        })?;
        shows_clients(&second, hosts, &witness)?;

        pods.push(witness);
        let third = thread::scope(|scope| {
            let remove = |pod| scope.spawn(move || runtime.remove_pod(pod));
            let removed: Vec<_> = pods.iter().map(remove).collect();
            wait_for_attachments(0..=number / 2)?;
            ensure!(second.stop()?.success(), "the agent failed");
            let third = agent(directory)?;
            let mut removed = removed.into_iter();
            removed.try_for_each(|pod| pod.join().expect("no panic"))?;
            anyhow::Ok(third)
        })?;
        lets_go_of_all(&third)
    });
}

/// Waits until the plugin has written so many files.
fn wait_for_attachments(wanted: RangeInclusive<usize>) -> Result<()> {
    let what = format!("{wanted:?} attachments");
    within(Limit::secs(60), &what, || {
        let files = fs::read_dir(ATTACHMENTS)?.flatten();
        let is_written = |file: &fs::DirEntry| file.path().extension().is_some_and(|e| e == "json");
        Ok(wanted
            .contains(&files.filter(is_written).count())
            .then_some(()))
    })
}

/// A load balancer, a client, and the option by which the one tells of the other.
fn told(family: Family) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let client = (family.client(76), 4711).into();
    let kind = match family {
        Family::V4 => 254,
        Family::V6 => 253,
    };
    let source = (family.balancer(1), 40_000).into();
    (source, client, toa(kind, client))
}
