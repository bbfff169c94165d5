//! Unmodified servers behind a trusted proxy: each tells and logs the proxy's address before, and the
//! client's address and port with truepeer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Trust};
use tests::clients::load::{Application, Load};
use tests::host::cgroup::Cgroup;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::haproxy::{self, Usesrc};
use tests::proxies::{any, any_v4, local_routes};
use tests::servers::postgresql::{self, Postgresql};
use tests::servers::sshd::{self, Sshd};
use tests::servers::web::Web;
use tests::topology::{Family, Sidecar};

const SERVER: u16 = 8080;
/// The proxy's port for IPv4; the next is for IPv6.
const PROXY: u16 = 15001;

#[test]
fn nginx() {
    web(|directory, pod| Web::nginx(directory, pod, &[any_v4(SERVER), any(SERVER)]));
}

#[test]
fn apache() {
    web(|directory, pod| Web::apache(directory, pod, SERVER));
}

#[test]
fn caddy() {
    web(|directory, pod| Web::caddy(directory, pod, SERVER));
}

#[test]
fn python() {
    web(|directory, pod| Web::python(directory, pod, SERVER));
}

#[test]
fn node() {
    web(|directory, pod| Web::node(directory, pod, SERVER));
}

fn web(start: fn(&Path, &Netns) -> Result<Web>) {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let client = &sidecar.client;
        let web = start(directory, &sidecar.pod)?;
        let load = Load {
            application: Application::Web,
            ..Load::new(Sidecar::targets(PROXY))
        };
        let lost = || load.run(client).all_lost();
        let kept = || {
            let before = web.logged(load.connections)?;
            ensure!(
                before.iter().all(|logged| logged.ip().is_loopback()),
                "logged without truepeer: {before:?}"
            );
            load.run(client).all_exact()?;
            let held = load.hold(client)?;
            let clients: BTreeSet<SocketAddr> = held.iter().map(|held| held.client).collect();
            let logged = web.logged(2 * load.connections + held.len())?;
            let logged = &logged[2 * load.connections..];
            ensure!(
                clients == logged.iter().copied().collect(),
                "connected: {clients:?}, logged: {logged:?}"
            );
            Ok(())
        };
        before_and_after(directory, &sidecar, lost, kept)
    });
}

#[test]
fn sshd() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let sshd = Sshd::start(directory, &sidecar.pod, SERVER)?;
        let clients: Vec<(IpAddr, SocketAddr)> = (0..3)
            .flat_map(|n| Family::ALL.map(|family| family.client(n)))
            .zip(Sidecar::targets(PROXY).into_iter().cycle())
            .collect();
        let logged = || -> Result<Vec<IpAddr>> {
            let before = sshd.logged()?.len();
            for (client, target) in &clients {
                sshd::connect(&sidecar.client, *client, *target)?;
            }
            Ok(sshd.logged()?.split_off(before))
        };
        let lost = || {
            let logged = logged()?;
            ensure!(
                logged.len() == clients.len() && logged.iter().all(IpAddr::is_loopback),
                "logged: {logged:?}"
            );
            Ok(())
        };
        let kept = || {
            let logged = logged()?;
            ensure!(
                logged.iter().eq(clients.iter().map(|(client, _)| client)),
                "connected: {clients:?}, logged: {logged:?}"
            );
            Ok(())
        };
        before_and_after(directory, &sidecar, lost, kept)
    });
}

#[test]
fn postgresql() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let (friend, stranger) = (0, 1);
        let admitted = Family::ALL.map(|family| family.client(friend));
        let _postgresql = Postgresql::start(directory, &sidecar.pod, SERVER, &admitted)?;
        let ask = |client, proxy| {
            sidecar.connect_from(client)?;
            postgresql::query(&sidecar.client, proxy, "select inet_client_addr()")
        };
        let families = || Family::ALL.into_iter().zip(Sidecar::targets(PROXY));
        let lost = || {
            for (family, proxy) in families() {
                for n in [friend, stranger] {
                    postgresql::refuses(ask(family.client(n), proxy), family.localhost())?;
                }
            }
            Ok(())
        };
        let kept = || {
            for (family, proxy) in families() {
                let answer = ask(family.client(friend), proxy)?;
                ensure!(answer == family.client(friend).to_string(), "{answer}");
                postgresql::refuses(ask(family.client(stranger), proxy), family.client(stranger))?;
            }
            Ok(())
        };
        before_and_after(directory, &sidecar, lost, kept)
    });
}

/// `lost` with an ordinary HAProxy in front of the server, `kept` with one that is trusted to bind to
/// the client's address and port.
fn before_and_after(
    directory: &Path,
    sidecar: &Sidecar,
    lost: impl FnOnce() -> Result<()>,
    kept: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let routes = local_routes(PROXY, SERVER);
    let proxy = haproxy::plain(directory, &sidecar.pod, &routes)?;
    lost().context("without truepeer")?;
    proxy.stop()?;

    let cgroup = Cgroup::new("proxy")?;
    let mut config = Config::new(directory, [])?;
    config.trust.push(Trust::cgroup(cgroup.path()));
    let agent = Agent::start(directory, config)?;
    let proxy =
        cgroup.run(|| haproxy::transparent(directory, &sidecar.pod, Usesrc::Client, &routes))?;
    kept().context("with truepeer")?;
    proxy.stop()?;
    no_origins(&agent)?;
    ensure!(agent.stop()?.success(), "the agent's exit status");
    Ok(())
}
