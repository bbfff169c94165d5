//! A trusted proxy that binds to the client's address: the application's `accept()` and
//! `getpeername()` tell the client, and nothing is spoofed.

use std::path::Path;

use agent_common::Counter;
use anyhow::{Context as _, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Trust};
use tests::clients::load::{Load, Outcome};
use tests::host::cgroup::Cgroup;
use tests::host::netns::Netns;
use tests::host::process::Process;
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::host::user::UID;
use tests::proxies::haproxy::{self, Usesrc};
use tests::proxies::{Route, any, envoy, local_routes, nginx};
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};

/// A dual-stack application.
const REPORT: u16 = 8080;
/// The proxy's port for each family.
const PROXY: u16 = 15001;

/// What makes a proxy trusted.
#[derive(Clone, Copy)]
enum By {
    Uid,
    Cgroup,
}

#[test]
fn envoy_original_src() {
    scenario(|directory| {
        let start = |pod: &Netns, routes: &[Route]| envoy::binding(directory, pod, UID, routes);
        trusted(directory, By::Uid, envoy::plain, start, Outcome::all_kept)
    });
}

#[test]
fn nginx_proxy_bind() {
    scenario(|directory| {
        let start = |pod: &Netns, routes: &[Route]| nginx::transparent(directory, pod, routes);
        trusted(
            directory,
            By::Cgroup,
            nginx::plain,
            start,
            Outcome::all_kept,
        )
    });
}

#[test]
fn nginx_proxy_bind_without_capabilities() {
    scenario(|directory| {
        let start = |pod: &Netns, routes: &[Route]| nginx::binding(directory, pod, UID, routes);
        trusted(directory, By::Uid, nginx::plain, start, Outcome::all_kept)
    });
}

#[test]
fn haproxy_usesrc_clientip() {
    haproxy(Usesrc::ClientIp, Outcome::all_kept);
}

#[test]
fn haproxy_usesrc_client() {
    haproxy(Usesrc::Client, Outcome::all_exact);
}

#[test]
fn haproxy_usesrc_client_without_capabilities() {
    scenario(|directory| {
        let start = |pod: &Netns, routes: &[Route]| {
            haproxy::binding(directory, pod, UID, Usesrc::Client, routes)
        };
        trusted(
            directory,
            By::Uid,
            haproxy::plain,
            start,
            Outcome::all_exact,
        )
    });
}

fn haproxy(usesrc: Usesrc, expected: fn(&Outcome) -> Result<()>) {
    scenario(|directory| {
        let start =
            |pod: &Netns, routes: &[Route]| haproxy::transparent(directory, pod, usesrc, routes);
        trusted(directory, By::Cgroup, haproxy::plain, start, expected)
    });
}

/// Lost behind the ordinary proxy, kept behind the one that binds, though every packet carries the
/// pod's own addresses: no mark, no rule and no route is installed.
fn trusted(
    directory: &Path,
    by: By,
    plain: fn(&Path, &Netns, &[Route]) -> Result<Process>,
    binding: impl Fn(&Netns, &[Route]) -> Result<Process>,
    expected: fn(&Outcome) -> Result<()>,
) -> Result<()> {
    let sidecar = Sidecar::new()?;
    let pod = &sidecar.pod;
    let _report = Report::start(pod, any(REPORT))?;
    let routes = local_routes(PROXY, REPORT);
    let target = |family, port| Load::new([(Sidecar::address(family), port).into()]);

    let proxy = plain(directory, pod, &routes)?;
    for (family, port) in Family::ALL.into_iter().zip(PROXY..) {
        target(family, port).run(&sidecar.client).all_lost()?;
    }
    proxy.stop()?;

    let before = pod.enter(Traces::here)?;
    let cgroup = Cgroup::new("proxy")?;
    let mut config = Config::new(directory, [])?;
    match by {
        By::Uid => config.trust.push(Trust::uid(UID)),
        By::Cgroup => config.trust.push(Trust::cgroup(cgroup.path())),
    }
    let agent = Agent::start(directory, config)?;
    let proxy = match by {
        By::Uid => binding(pod, &routes)?,
        By::Cgroup => cgroup.run(|| binding(pod, &routes))?,
    };
    for (family, port) in Family::ALL.into_iter().zip(PROXY..) {
        let load = target(family, port);
        expected(&load.run(&sidecar.client))?;
        let held = load.hold(&sidecar.client)?;
        let peers = agent.peers()?;
        let connection = held.first().context("a connection")?;
        let peer = peers
            .0
            .iter()
            .find(|peer| peer.client.ip() == connection.client.ip())
            .with_context(|| format!("no origin for {}", connection.client))?;
        ensure!(
            peer.evidence == "bind" && peer.remote.ip() != peer.client.ip(),
            "{peer:?}"
        );
    }
    before.assert_unchanged(&pod.enter(Traces::here)?)?;
    ensure!(
        agent.counter(Counter::LearntWire)? == 0,
        "nothing is spoofed"
    );
    proxy.stop()?;
    no_origins(&agent)?;
    ensure!(agent.stop()?.success(), "the agent's exit status");
    Ok(())
}
