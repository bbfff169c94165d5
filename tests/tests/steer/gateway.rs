//! A gateway: client, proxy host, server on another host. The proxy connects in the client's name,
//! and the answers return through the proxy host (HAProxy's transparent mode, without its iptables
//! rules).

use std::net::IpAddr;
use std::path::Path;

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::records::{no_origins, observed};
use tests::agent::{Agent, Config, Steer, truepeer};
use tests::clients::load::{Load, Outcome};
use tests::host::netns::Netns;
use tests::host::process::Process;
use tests::host::traces::Traces;
use tests::host::{kernel, scenario};
use tests::proxies::haproxy::{self, Usesrc};
use tests::proxies::own::Proxy;
use tests::proxies::{Listen, Route, any, any_v4, envoy, nginx};
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};

const APPLICATION: u16 = 8080;
const PLAIN: u16 = 15001;
const PROXY: u16 = 15006;

type Plain = fn(&Path, &Netns, &[Route]) -> Result<Process>;
type Kept = fn(&Outcome) -> Result<()>;

#[test]
fn envoy_original_src() {
    with_workers(
        envoy::plain,
        |directory, gateway, listen| envoy::gateway(directory, gateway, PROXY, listen),
        Outcome::all_kept,
    );
}

#[test]
fn haproxy_usesrc_clientip() {
    with_workers(
        haproxy::plain,
        |directory, gateway, listen| {
            haproxy::gateway(directory, gateway, Usesrc::ClientIp, &routes(PROXY), listen)
        },
        Outcome::all_kept,
    );
}

#[test]
fn haproxy_usesrc_client() {
    with_workers(
        haproxy::plain,
        |directory, gateway, listen| {
            haproxy::gateway(directory, gateway, Usesrc::Client, &routes(PROXY), listen)
        },
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

/// A proxy whose workers' listeners share a port. Where tc cannot bring connections to those, it needs one listener.
fn with_workers(
    plain: Plain,
    transparent: fn(&Path, &Netns, Listen) -> Result<Process>,
    kept: Kept,
) {
    let shares = kernel::steers_to_shared_ports().expect("the kernel's version");
    let listen = if shares {
        Listen::Shared
    } else {
        connections_pass(|directory, gateway| transparent(directory, gateway, Listen::Shared));
        Listen::Alone
    };
    gateway(
        plain,
        |directory, gateway| transparent(directory, gateway, listen),
        Gateway::server,
        kept,
    );
}

/// Connections pass the proxy as if truepeer were absent, and the doctor tells of it.
fn connections_pass(transparent: impl FnOnce(&Path, &Netns) -> Result<Process>) {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _server = Report::start(&gateway.server, any(APPLICATION))?;
        let _proxy = transparent(directory, &gateway.gateway)?;
        let agent = Agent::start(directory, config(directory, &gateway)?)?;
        for family in Family::ALL {
            let target = (Gateway::server(family), APPLICATION).into();
            Load::new([target]).run(&gateway.client).all_exact()?;
        }
        let steered = agent.counter(Counter::Steered)?;
        ensure!(steered == 0, "{steered} connections were steered");
        let doctor = truepeer(&["doctor", "--pre"])?;
        let said = String::from_utf8_lossy(&doctor.stdout);
        ensure!(said.contains("needs a proxy with one listener"), "{said}");
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

fn config(directory: &Path, gateway: &Gateway) -> Result<Config> {
    let steer = Steer::new("gateway", &gateway.gateway, &["8080"], PROXY)
        .on(Gateway::FRONT)
        .answers(Gateway::BACK);
    Config::new(directory, [steer])
}

/// Connects to `target` through the plain proxy and then through the transparent one.
fn gateway<P>(
    plain: Plain,
    transparent: impl FnOnce(&Path, &Netns) -> Result<P>,
    target: fn(Family) -> IpAddr,
    kept: Kept,
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
        let agent = Agent::start(directory, config(directory, &gateway)?)?;
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
