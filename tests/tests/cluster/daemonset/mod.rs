//! The DaemonSet's containers on a node: with the manifest's capabilities and mounts and nothing else, one agent
//! follows another without losing a connection, and the last one leaves nothing behind.

mod rollout;
mod stage;

use std::fs;
use std::net::Ipv6Addr;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::clients::load::Load;
use tests::cluster::daemonset::{Container, unpack};
use tests::host::netns::Netns;
use tests::host::traces::Traces;
use tests::host::{kernel, scenario};
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use self::stage::{
    APPLICATION, Directories, NETWORK, PROXY, add, agent, daemonset, entry, patience, plugins,
};

const MARK: u32 = 1337;

#[test]
fn agents_follow_each_other_and_leave_nothing_behind() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let before = sidecar.pod.enter(Traces::here)?;
        let _report = Report::start(&sidecar.pod, any(APPLICATION))?;
        let node = Netns::new("node")?;
        let directories = Directories::new(directory)?;
        // A relay listens on a port that needs a capability.
        let relay = "[[relay]]\nlisten = \"[::1]:443\"\nupstream = [\"[::1]:80\"]\n";
        let _upstream = Report::start(&node, (Ipv6Addr::LOCALHOST, 80).into())?;
        let node = directories.node(&node, relay, &entry()?)?;
        let bundle = unpack(directory)?;
        let (manifest, removing) = (daemonset("agent")?, daemonset("remove")?);
        let load =
            Load::new(Family::ALL.map(|family| (Sidecar::address(family), APPLICATION).into()));
        let through_proxy = || {
            let outcome = load.run(&sidecar.client);
            outcome.all_kept()?;
            ensure!(outcome.exact == 0, "not all through the proxy: {outcome:?}");
            Ok(())
        };

        let first = agent(directory, &bundle, &manifest, &node)?;
        add(&directories, &node, &sidecar.pod)?;
        let _proxy = Proxy::sidecar(&sidecar.pod, any(PROXY), MARK)?;
        through_proxy()?;
        let mut held = load.hold(&sidecar.client)?;
        let doctor = [
            "/usr/bin/truepeer",
            "doctor",
            "--output",
            "json",
            "--config",
            "/etc/truepeer/truepeer.toml",
        ];
        let checks: Vec<Value> = serde_json::from_str(&first.exec(&doctor)?)?;
        let wrong: Vec<_> = checks
            .iter()
            .filter(|check| check["outcome"] != "ok")
            .collect();
        // What an older kernel cannot is told, and nothing else is wrong.
        let limits = usize::from(!kernel::steers_to_shared_ports()?);
        let are_limits = wrong
            .iter()
            .all(|check| check["outcome"] == "warn" && check["name"] == "kernel");
        ensure!(
            checks.len() > 5 && are_limits && wrong.len() == limits,
            "{wrong:?} of {checks:?}"
        );
        first.stop(patience(&manifest)?)?;
        through_proxy().context("between two agents")?;
        held.iter_mut()
            .try_for_each(|connection| connection.ping())?;

        let second = agent(directory, &bundle, &manifest, &node)?;
        through_proxy()?;
        held.iter_mut()
            .try_for_each(|connection| connection.ping())?;
        let told = second.exec(&["truepeer", "peers", "--output", "json"])?;
        let peers: Vec<Value> = serde_json::from_str(&told)?;
        for connection in &held {
            let is_it = |peer: &&Value| peer["remote"] == connection.client.to_string();
            let peer = peers
                .iter()
                .find(is_it)
                .context("a connection is forgotten")?;
            ensure!(peer["client"] == connection.client.to_string(), "{peer}");
        }
        let proxy = json!(std::process::id());
        ensure!(
            peers.iter().any(|peer| peer["pid"] == proxy),
            "no process is told: {told}"
        );
        second.stop(patience(&manifest)?)?;

        let last = agent(directory, &bundle, &removing, &node)?;
        fs::write(directories.root.join("cni-bin/truepeer"), "of a former pod")?;
        let plugin = Container::start(directory, &bundle, &removing, "cni", &node)?;
        eventually("the plugin is removed", || {
            Ok(directories.list("cni-bin")?.is_empty().then_some(()))
        })?;
        drop(held);
        last.stop(patience(&removing)?)?;
        // Kubelets stop sidecars after the other containers.
        plugin.stop(patience(&removing)?)?;
        before.assert_unchanged(&sidecar.pod.enter(Traces::here)?)?;
        load.run(&sidecar.client).all_exact()?;
        directories.ensure_bare()
    });
}

#[test]
fn the_plugin_is_chained_for_as_long_as_the_pod_is_there() {
    scenario(|directory| {
        let node = Netns::new("node")?;
        let directories = Directories::new(directory)?;
        let network = directories.root.join("cni-conf/10-pods.conflist");
        fs::write(&network, NETWORK)?;
        let node = directories.node(&node, "", &entry()?)?;
        // This file is like the one that the plugin writes for a pod.
        fs::create_dir(directories.root.join("state/pods"))?;
        fs::write(directories.root.join("state/pods/some:eth0.json"), "{}")?;
        let bundle = unpack(directory)?;
        let chained = |first: &str| {
            let expected = [json!({"type": first}), entry()?];
            eventually("the plugin is chained", || {
                Ok((plugins(&network)? == expected).then_some(()))
            })
        };

        let manifest = daemonset("agent")?;
        let cni = Container::start(directory, &bundle, &manifest, "cni", &node)?;
        chained("ptp")?;
        ensure!(directories.list("cni-bin")? == ["truepeer"]);
        // Network plugins write the list anew when they are updated.
        let newer = NETWORK.replace("ptp", "bridge");
        fs::write(&network, &newer)?;
        chained("bridge")?;
        cni.stop(patience(&manifest)?)?;
        // Pods that start between two agents are set up, too.
        chained("bridge")?;

        let removing = daemonset("remove")?;
        let cni = Container::start(directory, &bundle, &removing, "cni", &node)?;
        eventually("the plugin is removed", || {
            Ok(directories.list("cni-bin")?.is_empty().then_some(()))
        })?;
        ensure!(fs::read_to_string(&network)? == newer);
        ensure!(directories.list("cni-conf")? == ["10-pods.conflist"]);
        ensure!(
            directories.list("state")? == ["pods"],
            "an agent may still serve them"
        );
        cni.stop(patience(&removing)?)?;
        ensure!(directories.list("state")?.is_empty());
        Ok(())
    });
}
