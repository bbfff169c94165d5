//! Who is told what a trusted proxy says about its client: applications of every kind, in the proxy's
//! namespace or another one. And who is not believed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use agent_common::Counter;
use anyhow::{Result, ensure};
use nix::errno::Errno;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Reveal, Trust};
use tests::clients::load::Load;
use tests::host::netns::Netns;
use tests::host::process::Process;
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::host::user::UID;
use tests::proxies::own::Proxy;
use tests::proxies::{Route, any, any_v4, gateway_routes};
use tests::roles::{Answers, ask, proxy};
use tests::servers::report::Report;
use tests::topology::{Family, Gateway, Sidecar};

const PLAYGROUND: &str = env!("CARGO_BIN_EXE_playground");
const APPLICATION: u16 = 8080;
/// A user that is not trusted.
const STRANGER: u32 = 1338;
/// The proxy's port for each family.
const PROXY: u16 = 15001;

fn agent(directory: &Path) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.push(Trust::uid(UID).reach("host"));
    Agent::start(directory, config)
}

fn binding(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    proxy(directory, netns, PLAYGROUND.as_ref(), routes)
}

#[test]
fn application_in_another_namespace() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _report = Report::start(&gateway.server, any(APPLICATION))?;
        let routes = gateway_routes(PROXY, APPLICATION);
        let load = Load::new(Gateway::targets(PROXY));
        // Without routes to the clients, nothing that is spoofed would be answered.
        for family in ["-4", "-6"] {
            gateway.server.ip(&format!("{family} route del default"))?;
        }

        let before = gateway.gateway.enter(Traces::here)?;
        {
            let _plain = Proxy::plain(&gateway.gateway, routes[0].0, routes[0].1)?;
            Load::new([load.targets[0]])
                .run(&gateway.client)
                .all_lost()?;
        }
        let agent = agent(directory)?;
        let proxy = binding(directory, &gateway.gateway, &routes)?;
        load.run(&gateway.client).all_exact()?;
        let held = load.hold(&gateway.client)?;
        let peers = agent.peers()?;
        for connection in &held {
            let wire = Gateway::back(family_of(connection.client));
            ensure!(
                peers.0.iter().any(|peer| peer.client == connection.client
                    && peer.evidence == "bind"
                    && peer.local == connection.seen.local
                    && peer.remote.ip() == wire),
                "{} from {wire} is not among {peers:?}",
                connection.client
            );
        }
        drop(held);
        proxy.stop()?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        before.assert_unchanged(&gateway.gateway.enter(Traces::here)?)
    });
}

#[test]
fn ipv4_application() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _report = Report::start(pod, any_v4(APPLICATION))?;
        let mut config = Config::new(directory, [])?;
        config.trust.push(Trust::uid(UID));
        // By default such connections are refused: `learn::inexpressible`.
        config.reveal = Reveal {
            inexpressible: Some("pass"),
            ..Reveal::default()
        };
        let agent = Agent::start(directory, config)?;
        // A socket for both families reaches the application by its mapped address, and may have an
        // IPv6 client.
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        let _proxy = binding(
            directory,
            pod,
            &[
                (any_v4(PROXY), (Ipv4Addr::LOCALHOST, APPLICATION).into()),
                (any(PROXY + 1), (mapped, APPLICATION).into()),
            ],
        )?;
        Load::new([(Sidecar::address(Family::V4), PROXY).into()])
            .run(&sidecar.client)
            .all_exact()?;
        ensure!(
            agent.counter(Counter::RevealInexpressible)? == 0,
            "IPv4 clients can be expressed"
        );

        // An IPv4 socket cannot be told an IPv6 client: the application sees the address on the wire.
        let load = Load::new([(Sidecar::address(Family::V6), PROXY + 1).into()]);
        load.run(&sidecar.client).all_lost()?;
        let held = load.hold(&sidecar.client)?;
        let peers = agent.peers()?;
        for connection in &held {
            let seen = &connection.seen;
            ensure!(
                seen.accepted.ip() == IpAddr::from(Ipv4Addr::LOCALHOST)
                    && seen.peername == seen.accepted,
                "{seen:?}"
            );
            let known = peers.find(seen.local, seen.accepted);
            ensure!(
                known.is_some_and(|peer| peer.client == connection.client),
                "{} is known as {known:?}",
                connection.client
            );
        }
        // `accept()` and `getpeername()`.
        let answers = 2 * (load.connections + load.concurrent) as u64;
        let inexpressible = agent.counter(Counter::RevealInexpressible)?;
        ensure!(inexpressible == answers, "{inexpressible} of {answers}");
        Ok(())
    });
}

#[test]
fn a_user_that_is_not_trusted() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let answers = |uid, family: Family| {
            let foreign = (family.client(0), 4711).into();
            ask(&sidecar.pod, uid, PLAYGROUND.as_ref(), foreign)
        };
        let usual = Answers {
            transparent: Some(Errno::EPERM as i32),
            mark: Some(Errno::EPERM as i32),
            bind: Some(Errno::EADDRNOTAVAIL as i32),
        };
        for family in Family::ALL {
            for uid in [UID, STRANGER] {
                let answers = answers(uid, family)?;
                ensure!(answers == usual, "{uid} without truepeer: {answers:?}");
            }
        }
        let _agent = agent(directory)?;
        for family in Family::ALL {
            let stranger = answers(STRANGER, family)?;
            ensure!(stranger == usual, "a stranger: {stranger:?}");
            let trusted = answers(UID, family)?;
            ensure!(trusted == Answers::default(), "a proxy: {trusted:?}");
        }
        Ok(())
    });
}

fn family_of(address: SocketAddr) -> Family {
    if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}
