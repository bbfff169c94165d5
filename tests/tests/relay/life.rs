//! The relay over time: upstreams that come and go, new configurations, limits, the end.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Carry, CarryToa, Config, Relay, Trust};
use tests::balancer::{
    APPLICATION, RELAY, SOURCES, agent, config, refused, relay_of, relays, three,
};
use tests::clients::load::Load;
use tests::clients::tcp::{assert_refused, connect, seen};
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::v2_with_checksum;
use tests::servers::report::{Report, Seen};
use tests::topology::{Family, Gateway};
use tests::wait::eventually;

/// Sends a header for the n-th client; what the application sees of it.
fn ask(topology: &Gateway, n: u8) -> Result<(TcpStream, Seen)> {
    let relay = relay_of(Family::V4);
    let client = (Ipv4Addr::new(203, 0, 113, n), 4711).into();
    let mut stream = connect(&topology.gateway, relay)?;
    stream.write_all(&v2_with_checksum(client, relay))?;
    let seen = seen(&mut stream)?;
    ensure!(seen.accepted == client, "{client} is seen as {seen:?}");
    Ok((stream, seen))
}

fn still_works(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"ping")?;
    let mut echo = [0; 4];
    stream.read_exact(&mut echo)?;
    ensure!(&echo == b"ping", "{echo:?}");
    Ok(())
}

fn nobody_listens(topology: &Gateway) -> Result<()> {
    eventually("nobody listens", || {
        let connected = connect(&topology.gateway, relay_of(Family::V4));
        Ok(connected.is_err().then_some(()))
    })
}

/// A relay for IPv4 that tells these upstreams' applications by `accept()`.
fn relay(topology: &Gateway, upstream: Vec<SocketAddr>) -> Relay {
    let mut relay = relays(&topology.server, "reveal").remove(0);
    relay.upstream = upstream;
    relay
}

#[test]
fn only_the_clients_of_a_lost_upstream_move() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let mut applications = three(&topology.server)?;
        let upstreams = applications.keys().map(|ip| (*ip, APPLICATION).into());
        let mut relay = relay(&topology, upstreams.collect());
        relay.balance = Some("client-ip");
        let agent = agent(directory, vec![relay])?;
        let choices = || -> Result<HashMap<u8, IpAddr>> {
            (1..=60)
                .map(|n| Ok((n, ask(&topology, n)?.1.local.ip())))
                .collect()
        };
        let before = choices()?;
        ensure!(choices()? == before, "a client has its upstream");
        let lost = *applications.keys().next().context("three")?;
        let its = before.values().filter(|ip| **ip == lost).count();
        ensure!(
            (5..40).contains(&its),
            "{its} of 60 clients on one of three"
        );

        // Only these clients move, both at once and when the checks have noticed.
        applications.remove(&lost);
        for _ in 0..2 {
            for (n, now) in choices()? {
                let then = before[&n];
                ensure!(
                    now != lost && (now == then || then == lost),
                    "{n}: {then}, {now}"
                );
            }
            let up = format!(
                "truepeer_relay_upstream_up{{relay=\"0.0.0.0:{RELAY}\",upstream=\"{lost}:{APPLICATION}\"}}"
            );
            eventually("the check fails", || {
                Ok((agent.metric(&up)? == 0).then_some(()))
            })?;
        }
        let again = Report::start(&topology.server, (lost, APPLICATION).into())?;
        applications.insert(lost, again);
        eventually("its clients come back", || {
            Ok((choices()? == before).then_some(()))
        })
    });
}

#[test]
fn a_new_configuration_drops_no_connection() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let applications = three(&topology.server)?;
        let upstreams: Vec<SocketAddr> = applications
            .keys()
            .map(|ip| (*ip, APPLICATION).into())
            .collect();
        let agent = agent(directory, vec![relay(&topology, vec![upstreams[0]])])?;
        let (mut stream, seen) = ask(&topology, 1)?;
        ensure!(seen.local == upstreams[0], "{seen:?}");

        let mut config = agent.config().clone();
        config.relay[0].upstream = vec![upstreams[1]];
        config.write()?;
        agent.signal(Signal::SIGHUP)?;
        // No connection is refused meanwhile.
        eventually("the other upstream", || {
            Ok((ask(&topology, 2)?.1.local == upstreams[1]).then_some(()))
        })?;
        still_works(&mut stream)?;

        // What cannot listen changes nothing.
        let mut taken = config.clone();
        taken.relay[0].upstream = vec![upstreams[2]];
        taken.relay.push(Relay {
            listen: upstreams[2],
            ..config.relay[0].clone()
        });
        taken.write()?;
        agent.signal(Signal::SIGHUP)?;
        eventually("the error is logged", || {
            Ok(agent.log()?.contains("cannot listen").then_some(()))
        })?;
        ensure!(ask(&topology, 3)?.1.local == upstreams[1], "as before");

        // Without a relay nobody listens; what is open goes on.
        config.relay.clear();
        config.write()?;
        agent.signal(Signal::SIGHUP)?;
        nobody_listens(&topology)?;
        still_works(&mut stream)?;
        drop(stream);
        no_origins(&agent)
    });
}

#[test]
fn a_namespace_that_is_replaced() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let path = directory.join("pod");
        symlink(topology.server.path(), &path)?;
        let mut relay = relays(&topology.server, "reveal").remove(0);
        relay.netns = path.clone();
        let agent = agent(directory, vec![relay])?;
        let (mut stream, _) = ask(&topology, 1)?;

        let new = directory.join("new");
        symlink(topology.client.path(), &new)?;
        std::fs::rename(new, path)?;
        nobody_listens(&topology)?;
        // In the new namespace the gateway is not trusted, but somebody answers it.
        let there = SocketAddr::new("10.77.0.1".parse()?, RELAY);
        assert_refused(&topology.gateway, there, "the other namespace's")?;
        ensure!(
            refused(&agent, Family::V4, "untrusted")? == 1,
            "it is the relay"
        );
        still_works(&mut stream)?;
        drop(stream);
        no_origins(&agent)
    });
}

#[test]
fn the_end_waits_for_what_is_open() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let mut config = config(directory, relays(&topology.server, "plain"))?;
        // The agent ends because no connection is open any more, and not because it gives up.
        config.agent.drain = Some(3600);
        let agent = Agent::start(directory, config)?;
        let relay = relay_of(Family::V4);
        let mut stream = connect(&topology.gateway, relay)?;
        stream.write_all(&v2_with_checksum(([203, 0, 113, 1], 1).into(), relay))?;
        seen(&mut stream)?;
        agent.signal(Signal::SIGTERM)?;
        nobody_listens(&topology)?;
        // While the agent drains, nothing ends the connection.
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(50));
            still_works(&mut stream)?;
        }
        drop(stream);
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn no_more_connections_than_allowed() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let mut relay = relays(&topology.server, "reveal").remove(0);
        relay.max_connections = Some(5);
        let agent = agent(directory, vec![relay])?;
        let mut open = (1..=5)
            .map(|n| Ok(ask(&topology, n)?.0))
            .collect::<Result<Vec<_>>>()?;
        for _ in 0..3 {
            assert_refused(&topology.gateway, relay_of(Family::V4), "the sixth")?;
        }
        ensure!(
            refused(&agent, Family::V4, "limit")? == 3,
            "three are refused"
        );
        open.iter_mut().try_for_each(still_works)?;
        open.pop();
        eventually("there is room again", || Ok(ask(&topology, 6).ok()))?;
        Ok(())
    });
}

/// Starts an agent whose relay on the gateway tells the server's host by TOA.
fn by_toa(directory: &Path, topology: &Gateway) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.carry = Some(Carry {
        toa: CarryToa {
            to: SOURCES.iter().map(|s| (*s).into()).collect(),
            ..CarryToa::default()
        },
        ..Carry::default()
    });
    config.trust.extend(Trust::sources(SOURCES));
    config.relay = Family::ALL
        .into_iter()
        .map(|family| {
            let listen = (Gateway::front(family), RELAY).into();
            let upstream = (Gateway::server(family), APPLICATION).into();
            let mut relay = Relay::proxy(&topology.gateway, listen, upstream, "toa");
            relay.accept = "plain";
            relay
        })
        .collect();
    Agent::start(directory, config)
}

#[test]
fn plain_connections_that_are_told_by_toa() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let agent = by_toa(directory, &topology)?;
        let targets = Family::ALL.map(|family| (Gateway::front(family), RELAY).into());
        let mut load = Load::new(targets);
        load.connections = 200;
        load.run(&topology.client).all_exact()?;
        let carried = agent.counter(agent_common::Counter::CarriedToa)?;
        ensure!(
            carried == load.connections as u64,
            "{carried} SYNs with TOA"
        );
        no_origins(&agent)
    });
}
