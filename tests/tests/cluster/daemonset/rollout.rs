//! A rollout: the next pod starts beside the former one (`maxSurge`), which is stopped when that is ready.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::balancer::{APPLICATION, crowd, relay_of};
use tests::cluster::daemonset::{Container, unpack};
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::{any, any_of_family};
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};
use tests::wait::eventually;

use super::stage::{
    Directories, NETWORK, Pod, answers, daemonset, entry, patience, plugins, startup,
};

/// Where somebody else listens.
const TAKEN: u16 = 9002;

/// A relay for each family, to the application beside it.
fn relays() -> String {
    let relay = |family| {
        let listen = any_of_family(family, relay_of(family).port());
        relay(listen, (family.localhost(), APPLICATION).into())
    };
    Family::ALL.map(relay).concat()
}

fn relay(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "[[relay]]\nlisten = \"{listen}\"\naccept = \"plain\"\nsend = \"reveal\"\nupstream = [\"{upstream}\"]\n"
    )
}

#[test]
fn relays_outlive_their_pods() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let before = topology.server.enter(Traces::here)?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let directories = Directories::new(directory)?;
        let network = directories.root.join("cni-conf/10-pods.conflist");
        fs::write(&network, NETWORK)?;
        let node = directories.node(&topology.server, &relays(), &entry()?)?;
        let bundle = unpack(directory)?;
        let (manifest, removing) = (daemonset("agent")?, daemonset("remove")?);
        let mut pod = Pod::start(directory, &bundle, &manifest, &node)?;
        let load = crowd();
        let mut held = load.hold(&topology.client)?;
        let (pod, outcome) = load.during(&topology.client, |progress| {
            for next in [&manifest, &removing] {
                let next = Pod::start(directory, &bundle, next, &node)?;
                let former = std::mem::replace(&mut pod, next);
                // Of the probe's two answers there is one at a time: the former agent is no longer in place.
                let still = former.agent.exec(&startup(&manifest)?);
                ensure!(still.is_err(), "two agents are in place: {still:?}");
                progress.more("through the next pod")?;
                former.agent.terminate()?;
                held.iter_mut()
                    .try_for_each(|connection| connection.ping())?;
                answers(&manifest, &node)?;
                held = load.hold(&topology.client)?;
                former.ended(patience(&manifest)?)?;
                progress.more("without the former pod")?;
            }
            Ok(pod)
        })?;
        outcome.all_exact()?;
        ensure!(
            fs::read_to_string(&network)? == NETWORK,
            "the plugin is left"
        );
        drop(held);
        pod.agent.terminate()?;
        pod.ended(patience(&removing)?)?;
        before.assert_unchanged(&topology.server.enter(Traces::here)?)?;
        directories.ensure_bare()
    });
}

#[test]
fn a_pod_that_fails_changes_nothing() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let _other = Report::start(&topology.server, any(TAKEN))?;
        let directories = Directories::new(directory)?;
        let node = directories.node(&topology.server, &relays(), &entry()?)?;
        let taken = relay(any(TAKEN), (Family::V6.localhost(), APPLICATION).into());
        let bundle = unpack(directory)?;
        let manifest = daemonset("agent")?;
        let patience = patience(&manifest)?;
        let pod = Pod::start(directory, &bundle, &manifest, &node)?;
        let startup = startup(&manifest)?;
        let load = crowd();
        let mut held = load.hold(&topology.client)?;
        let ((), outcome) = load.during(&topology.client, |progress| {
            // One is found when the former agent has made way, the other before.
            for (more, said) in [
                (taken.as_str(), "cannot listen"),
                ("[nonsense]\n", "nonsense"),
            ] {
                let node = directories.node(&topology.server, &(relays() + more), &entry()?)?;
                let mut next = Container::start(directory, &bundle, &manifest, "agent", &node)?;
                let status = next.ended(patience)?;
                let log = next.log()?;
                ensure!(!status.success() && log.contains(said), "{status}: {log}");
                eventually("the former agent goes on", || {
                    Ok(pod.agent.exec(&startup).is_ok().then_some(()))
                })?;
                answers(&manifest, &node)?;
                progress.more("without the next pod")?;
                held.extend(load.hold(&topology.client)?);
            }
            Ok(())
        })?;
        outcome.all_exact()?;
        held.iter_mut()
            .try_for_each(|connection| connection.ping())?;
        drop(held);
        pod.agent.terminate()?;
        pod.ended(patience)
    });
}

/// Two sidecars of two versions: the later one's plugin and entry are there for as long as it is.
#[test]
fn of_two_sidecars_the_later_one_acts() {
    scenario(|directory| {
        let node = Netns::new("node")?;
        let directories = Directories::new(directory)?;
        let network = directories.root.join("cni-conf/10-pods.conflist");
        fs::write(&network, NETWORK)?;
        fs::create_dir(directories.root.join("state/pods"))?;
        let bundle = unpack(directory)?;
        let (manifest, removing) = (daemonset("agent")?, daemonset("remove")?);
        let patience = patience(&manifest)?;
        let mut other = entry()?;
        other["onAgentDown"] = json!("closed");
        let [node, changed] =
            [entry()?, other.clone()].map(|entry| directories.node(&node, "", &entry));
        let (node, changed) = (node?, changed?);
        let start = |manifest, node| Container::start(directory, &bundle, manifest, "cni", node);
        let chained = |entry: &Value| {
            eventually("the plugin is chained", || {
                let found = plugins(&network)?;
                Ok((found.len() == 2 && found[1] == *entry).then_some(()))
            })
        };
        let binary = directories.root.join("cni-bin/truepeer");

        let former = start(&manifest, &node)?;
        chained(&entry()?)?;
        let shipped = fs::read(&binary)?;
        let mut later = start(&manifest, &changed)?;
        chained(&other)?;
        stands_by(&former, 1)?;
        ensure!(plugins(&network)?[1] == other, "the former one has acted");
        // Whoever installs plugins may take away others'.
        for spoil in [
            |binary: &Path| fs::remove_file(binary),
            |binary: &Path| fs::write(binary, "another"),
        ] {
            spoil(&binary)?;
            eventually("the plugin is put back", || {
                Ok(fs::read(&binary)
                    .is_ok_and(|there| there == shipped)
                    .then_some(()))
            })?;
        }
        // Its pod is taken back.
        later.stop(patience)?;
        chained(&entry()?)?;
        later = start(&removing, &node)?;
        eventually("the plugin is removed", || {
            Ok((directories.list("cni-bin")?.is_empty()
                && fs::read_to_string(&network)? == NETWORK)
                .then_some(()))
        })?;
        stands_by(&former, 2)?;
        former.stop(patience)?;
        ensure!(directories.list("cni-bin")?.is_empty(), "it is back");
        ensure!(fs::read_to_string(&network)? == NETWORK, "it is back");
        // That is taken back, too: what is known of pods is the next agent's.
        let last = start(&manifest, &node)?;
        chained(&entry()?)?;
        later.stop(patience)?;
        ensure!(directories.list("state")? == ["pods"]);
        ensure!(plugins(&network)?[1] == entry()?, "it is removed");
        last.stop(patience)
    });
}

/// Waits until a sidecar has said so many times that a later one is there.
fn stands_by(sidecar: &Container, times: usize) -> Result<()> {
    eventually("it stands by", || {
        Ok((sidecar.log()?.matches("stands by").count() == times).then_some(()))
    })
    .context("a sidecar beside a later one")
}
