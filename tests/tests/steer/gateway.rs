//! A gateway: client, proxy host, server on another host. The proxy connects in the client's name,
//! and the answers return through the proxy host (HAProxy's transparent mode, without its iptables
//! rules).

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Result, ensure};
use tests::agent::records::{no_origins, observed};
use tests::agent::{Agent, Config, Steer};
use tests::clients::load::{Load, Outcome};
use tests::host::netns::Netns;
use tests::host::process::Process;
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::haproxy::{self, Usesrc};
use tests::proxies::own::Proxy;
use tests::proxies::{Route, any, any_v4, envoy, nginx};
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};

const APPLICATION: u16 = 8080;
const PLAIN: u16 = 15001;
const PROXY: u16 = 15006;

type Plain = fn(&Path, &Netns, &[Route]) -> Result<Process>;

#[test]
fn envoy_original_src() {
    let transparent = |directory: &Path, gateway: &Netns| {
        // A gateway's own connections need no mark.
        envoy::transparent(directory, gateway, PROXY, 0)
    };
    gateway(
        envoy::plain,
        transparent,
        Gateway::server,
        Outcome::all_kept,
    );
}

#[test]
fn haproxy_usesrc_clientip() {
    let transparent = |directory: &Path, gateway: &Netns| {
        haproxy::transparent(directory, gateway, Usesrc::ClientIp, &routes(PROXY))
    };
    gateway(
        haproxy::plain,
        transparent,
        Gateway::server,
        Outcome::all_kept,
    );
}

#[test]
fn haproxy_usesrc_client() {
    let transparent = |directory: &Path, gateway: &Netns| {
        haproxy::transparent(directory, gateway, Usesrc::Client, &routes(PROXY))
    };
    gateway(
        haproxy::plain,
        transparent,
        Gateway::server,
        Outcome::all_exact,
    );
}

#[test]
fn nginx_proxy_bind_transparent() {
    let transparent =
        |directory: &Path, gateway: &Netns| nginx::transparent(directory, gateway, &routes(PROXY));
    gateway(nginx::plain, transparent, Gateway::front, Outcome::all_kept);
}

#[test]
fn own_proxy() {
    let transparent = |_: &Path, gateway: &Netns| Proxy::gateway(gateway, any(PROXY));
    gateway(
        envoy::plain,
        transparent,
        Gateway::server,
        Outcome::all_exact,
    );
}

/// Connects to `target` through the plain proxy and then through the transparent one.
fn gateway<P>(
    plain: Plain,
    transparent: impl FnOnce(&Path, &Netns) -> Result<P>,
    target: fn(Family) -> IpAddr,
    kept: fn(&Outcome) -> Result<()>,
) {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _server = Report::start(&gateway.server, any(APPLICATION))?;
        let proxy = plain(directory, &gateway.gateway, &routes(PLAIN))?;
        for family in Family::ALL {
            let load = Load::new([(Gateway::front(family), PLAIN).into()]);
            load.run(&gateway.client).all_lost()?;
        }
        proxy.stop()?;

        let before = gateway.gateway.enter(Traces::here)?;
        let _proxy = transparent(directory, &gateway.gateway)?;
        let steer = Steer::new("gateway", &gateway.gateway, &["8080"], PROXY)
            .on(Gateway::FRONT)
            .answers(Gateway::BACK);
        let agent = Agent::start(directory, Config::new(directory, [steer])?)?;
        for family in Family::ALL {
            let target = (target(family), APPLICATION).into();
            kept(&Load::new([target]).run(&gateway.client))?;
            observed(&agent, &gateway.client, &[target])?;
        }
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        before.assert_unchanged(&gateway.gateway.enter(Traces::here)?)
    });
}

/// The routes from this port to the server, for both families.
fn routes(port: u16) -> Vec<Route> {
    let route =
        |(family, listen): (Family, _)| (listen, (Gateway::server(family), APPLICATION).into());
    Family::ALL
        .into_iter()
        .zip([any_v4(port), any(port)])
        .map(route)
        .collect()
}
