//! TOA: what a load balancer writes on the SYN, or a trusted proxy's host, is what the application sees.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::TcpMaxSeg;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Reveal, Trust};
use tests::clients::load::Load;
use tests::clients::raw::{LINUX, Raw, toa as option};
use tests::host::netns::run;
use tests::host::scenario;
use tests::host::user::UID;
use tests::proxies::own::connect_from;
use tests::proxies::{any, gateway_routes};
use tests::roles::proxy;
use tests::servers::report::{Report, Seen};
use tests::topology::{Family, Gateway, Sidecar};
use tests::variables::usual;

use crate::stage::{BALANCERS, carry};

const PLAYGROUND: &str = env!("CARGO_BIN_EXE_playground");
const APPLICATION: u16 = 8080;
const PROXY: u16 = 15001;
/// Believes load balancers, or others.
fn agent(directory: &Path, sources: &[&str]) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.extend(Trust::saying(&["toa"], sources));
    Agent::start(directory, config)
}

/// Every way to write TOA that is believed by default, and whom it names.
fn ways() -> Vec<(String, SocketAddr, Vec<u8>)> {
    let mut ways = Vec::new();
    let v4: SocketAddr = "203.0.113.77:4711".parse().expect("an address");
    let v6: SocketAddr = "[2001:db8:c::77]:4712".parse().expect("an address");
    for (kind, client) in [(254, v4), (253, v6), (254, v6)] {
        let option = option(kind, client);
        let name = format!("{kind}/{}", option.len());
        ways.push((format!("{name} alone"), client, option.clone()));
        ways.push((
            format!("{name} last"),
            client,
            [&LINUX[..], &option].concat(),
        ));
        ways.push((
            format!("{name} first"),
            client,
            [&option, &LINUX[..]].concat(),
        ));
        ways.push((
            format!("{name} amid"),
            client,
            [&LINUX[..4], &option, &LINUX[4..]].concat(),
        ));
    }
    ways
}

#[test]
fn what_a_load_balancer_writes() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let raw = Raw::new(&topology.client)?;
        // This listener is older than the agent, the other is not.
        let _old = Report::start(&topology.pod, any(APPLICATION))?;
        let agent = agent(directory, &BALANCERS)?;
        let _new = Report::start(&topology.pod, any(APPLICATION + 1))?;
        let mut sequence = 0x1000;
        let mut believed = 0;
        for cookies in ["0", "2"] {
            topology
                .pod
                .set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
            for port in [APPLICATION, APPLICATION + 1] {
                for family in Family::ALL {
                    let target = SocketAddr::new(Sidecar::address(family), port);
                    for (n, (name, client, options)) in ways().iter().enumerate() {
                        let source = SocketAddr::new(family.balancer(n as u8 + 1), 40_000 + port);
                        let what =
                            || format!("{name}, {family:?}, port {port}, syncookies {cookies}");
                        // A tuple is used again at once, by another client.
                        sequence += 0x10_0000;
                        let mut connection = raw
                            .connect(source, target, sequence, options)
                            .with_context(what)?;
                        let seen: Seen = serde_json::from_str(&connection.receive()?)?;
                        ensure!(
                            seen.accepted == *client && seen.peername == *client,
                            "{}: {client} was seen as {seen:?}",
                            what()
                        );
                        believed += 1;
                        let peers = agent.peers()?;
                        let peer = peers.find(target, source).with_context(what)?;
                        ensure!(peer.evidence == "toa" && peer.client == *client, "{peer:?}");
                        ensure!(peer.trusted_by.starts_with("source "), "{peer:?}");
                        // DPVS repeats the option until the server has answered.
                        connection.repeat(&option(254, "192.0.2.1:1".parse()?));
                        connection.send(b"ping\n")?;
                        ensure!(connection.receive()? == "ping\n", "{}: no echo", what());
                        connection.reset()?;
                    }
                }
            }
        }
        ensure!(agent.counter(Counter::LearntToa)? == believed, "counted");
        no_origins(&agent)
    });
}

#[test]
fn what_is_not_believed() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let raw = Raw::new(&topology.client)?;
        let agent = agent(directory, &["192.0.2.0/24", "2001:db8:1b::/64"])?;
        let _report = Report::start(&topology.pod, any(APPLICATION))?;
        let mut port = 40_000;
        let mut seen_by = |family: Family, options: &[u8]| -> Result<(SocketAddr, SocketAddr)> {
            port += 1;
            let source = SocketAddr::new(family.balancer(1), port);
            let target = SocketAddr::new(Sidecar::address(family), APPLICATION);
            let mut connection = raw.connect(source, target, port.into(), options)?;
            let seen: Seen = serde_json::from_str(&connection.receive()?)?;
            connection.reset()?;
            Ok((source, seen.accepted))
        };
        let (v4, v6) = (
            "203.0.113.77:4711".parse()?,
            "[2001:db8:c::77]:4712".parse()?,
        );
        for options in [option(254, v4), option(253, v6)] {
            let (source, accepted) = seen_by(Family::V4, &options)?;
            ensure!(
                accepted == source,
                "{source}, not trusted, was seen as {accepted}"
            );
        }
        ensure!(agent.counter(Counter::ToaUntrusted)? == 2, "untrusted");
        let invalid = [
            [option(254, v4), option(254, v4)].concat(),
            option(254, "127.0.0.1:80".parse()?),
            option(253, "[::1]:80".parse()?),
            option(254, "203.0.113.77:0".parse()?),
        ];
        for options in &invalid {
            let (source, accepted) = seen_by(Family::V6, options)?;
            ensure!(accepted == source, "{options:?} was believed: {accepted}");
        }
        ensure!(
            agent.counter(Counter::ToaInvalid)? == invalid.len() as u64,
            "invalid"
        );
        let (_, accepted) = seen_by(Family::V6, &option(253, v6))?;
        ensure!(accepted == v6, "{v6} was seen as {accepted}");
        Ok(())
    });
}

#[test]
fn handshakes_that_are_never_completed() {
    let number = usual(200_000);
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let raw = Raw::new(&topology.client)?;
        let _report = Report::start(&topology.pod, any(APPLICATION))?;
        let agent = agent(directory, &BALANCERS)?;
        let target = SocketAddr::new(Sidecar::address(Family::V4), APPLICATION);
        let source = |n: u32| {
            let port = 1024 + (n / 254 % 60_000) as u16;
            SocketAddr::new(Family::V4.balancer((n % 254 + 1) as u8), port)
        };
        let forged = |n: u32| SocketAddr::new([203, 0, 113, (n % 251 + 1) as u8].into(), 666);
        for n in 0..number {
            raw.syn(source(n), target, n, &option(254, forged(n)))?;
        }
        let cookies = topology.pod.tcp_counter("SyncookiesSent")?;
        ensure!(cookies > u64::from(number / 2), "only {cookies} cookies");
        ensure!(agent.origins()? == 0, "a SYN alone made an origin");
        // What the queue has no room for is answered with cookies: the same tuples are free at once. Where a machine is so
        // slow that the first entries expire before the last SYN, later ones took their room.
        let half_open = run(topology
            .pod
            .command("ss")?
            .args(["-Hnt", "state", "syn-recv"]))?;
        let queued: HashSet<_> = half_open
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .collect();
        // Another socket, whose buffer is not full of answers that nobody read.
        let raw = Raw::new(&topology.client)?;
        let mut honest = 0;
        let free = |n: &u32| !queued.contains(source(*n).to_string().as_str());
        for n in (number / 2..number)
            .step_by((number as usize / 200).max(1))
            .filter(free)
        {
            let client = SocketAddr::new([192, 0, 2, (n % 251 + 1) as u8].into(), 4711);
            let mut connection =
                raw.connect(source(n), target, n ^ 0x8000_0000, &option(254, client))?;
            let seen: Seen = serde_json::from_str(&connection.receive()?)?;
            ensure!(seen.accepted == client, "{client} was seen as {seen:?}");
            connection.reset()?;
            honest += 1;
        }
        ensure!(honest > 50, "only {honest} tuples were free");
        println!(
            "{number} forged SYNs; {honest} honest connections on the same tuples: wrong 0, unknown 0"
        );
        no_origins(&agent)
    });
}

#[test]
fn from_a_proxys_host_to_the_next() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _report = Report::start(&gateway.server, any(APPLICATION))?;
        let routes = gateway_routes(PROXY, APPLICATION);
        let load = Load::new(Gateway::targets(PROXY));

        // Two agents stand for two hosts: this one knows the proxy and reveals nothing,
        let mut config = Config::new(directory, [])?;
        config.trust.push(Trust::uid(UID).reach("carry"));
        config.reveal = Reveal {
            enabled: false,
            ..Reveal::default()
        };
        config.carry = Some(carry());
        let proxys = Agent::start(directory, config)?;
        let proxy = proxy(directory, &gateway.gateway, PLAYGROUND.as_ref(), &routes)?;
        load.run(&gateway.client).all_lost()?;
        // and this one knows the network that the proxy is in.
        let servers = agent(directory, &["10.78.0.1/32", "fd78::1/128"])?;
        load.run(&gateway.client).all_exact()?;
        let held = load.hold(&gateway.client)?;
        let peers = servers.peers()?;
        for connection in &held {
            ensure!(
                peers.0.iter().any(|peer| peer.client == connection.client
                    && peer.evidence == "toa"
                    && peer.remote.ip() == Gateway::back(family(connection.client))),
                "{} is not among {peers:?}",
                connection.client
            );
        }
        drop(held);
        let sent = proxys.counter(Counter::CarriedToa)?;
        ensure!(sent >= 2 * load.connections as u64, "{sent} SYNs with TOA");
        ensure!(proxys.counter(Counter::CarryNoRoom)? == 0, "no room");
        proxy.stop()?;
        no_origins(&servers)
    });
}

#[test]
fn segments_stay_as_large_as_they_were() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _report = Report::start(&gateway.server, any(APPLICATION))?;
        let sizes = || {
            Family::ALL
                .map(|family| {
                    let target = (Gateway::server(family), APPLICATION).into();
                    let client = SocketAddr::new(family.client(1), 0);
                    gateway.gateway.enter(|| -> Result<u32> {
                        let stream = connect_from(client, target, 0)?;
                        Ok(getsockopt(&stream, TcpMaxSeg)?)
                    })
                })
                .into_iter()
                .collect::<Result<Vec<_>>>()
        };
        let mut config = Config::new(directory, [])?;
        // This test itself is the proxy.
        config.trust.push(Trust::uid(0).reach("carry"));
        let mut without = Agent::start(directory, config)?;
        let before = sizes()?;
        ensure!(without.exited()?.is_none(), "the agent has gone");
        let mut config = without.kill()?;
        config.carry = Some(carry());
        let with = Agent::start(directory, config)?;
        let after = sizes()?;
        ensure!(with.counter(Counter::CarriedToa)? == 2, "TOA was sent");
        ensure!(before == after, "{before:?} bytes became {after:?}");
        Ok(())
    });
}

fn family(address: SocketAddr) -> Family {
    if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}
