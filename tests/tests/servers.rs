//! Unmodified servers behind a trusted proxy: each tells and logs the proxy's address before, and the
//! client's address and port with truepeer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, ensure};
use tests::agent::{Agent, Config};
use tests::cgroup::Cgroup;
use tests::check::no_origins;
use tests::haproxy::{self, Usesrc};
use tests::host::scenario;
use tests::load::{Application, Load};
use tests::netns::Netns;
use tests::process::Route;
use tests::proxy::{any, any_of_family, any_v4};
use tests::topology::{Family, Sidecar};
use tests::web::Web;

const SERVER: u16 = 8080;
/// The proxy's port for each family.
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
        let (client, pod) = (&sidecar.client, &sidecar.pod);
        let web = start(directory, pod)?;
        let routes = Family::ALL.into_iter().zip(PROXY..).map(|(family, port)| {
            let server = (family.localhost(), SERVER).into();
            (any_of_family(family, port), server)
        });
        let routes: Vec<Route> = routes.collect();
        let targets = Family::ALL.into_iter().zip(PROXY..);
        let load = Load {
            application: Application::Web,
            ..Load::new(targets.map(|(family, port)| (Sidecar::address(family), port).into()))
        };

        let proxy = haproxy::plain(directory, pod, &routes)?;
        load.run(client).all_lost()?;
        proxy.stop()?;
        for logged in web.logged()? {
            ensure!(logged.ip().is_loopback(), "logged before: {logged}");
        }
        let before = web.logged()?.len();

        let cgroup = Cgroup::new("proxy")?;
        let mut config = Config::new(directory, [])?;
        config.trust.cgroups.push(cgroup.path());
        let agent = Agent::start(directory, config)?;
        let proxy = cgroup.run(|| haproxy::transparent(directory, pod, Usesrc::Client, &routes))?;
        load.run(client).all_exact()?;
        let after = web.logged()?.split_off(before);
        ensure!(
            after.len() == load.connections,
            "{} are logged",
            after.len()
        );
        let clients: BTreeSet<SocketAddr> = load
            .hold(client)?
            .iter()
            .map(|connection| connection.client)
            .collect();
        let logged = web.logged()?.split_off(before + after.len());
        ensure!(
            clients == logged.iter().copied().collect(),
            "connected: {clients:?}, logged: {logged:?}"
        );
        proxy.stop()?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
