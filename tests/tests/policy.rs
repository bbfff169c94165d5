//! guard: policies judge the true client, wherever it is told.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use agent_common::proxy::{Endpoints, Peer, write};
use agent_common::{Endpoint, toa};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};
use tests::agent::{Agent, Config, Policy, Steer, Unwrap, truepeer};
use tests::check::no_origins;
use tests::eventually;
use tests::host::scenario;
use tests::load::{Load, connect};
use tests::proxy::{Proxy, any, local_routes};
use tests::raw::Raw;
use tests::report::{Report, Seen};
use tests::topology::{Family, Sidecar};
use tests::unprivileged::{UID, proxy};

const PLAYGROUND: &str = env!("CARGO_BIN_EXE_playground");
const PORT: u16 = 8080;
const PROXY: u16 = 15001;
const STEERED: u16 = 15006;
/// Longer than a SYN is waited for before it is sent again.
const PATIENCE: Duration = Duration::from_millis(1500);
const SOON: Duration = Duration::from_secs(10);

/// The clients' network, a part of it that is denied, and one address in that part.
const CLIENTS: [&str; 2] = ["203.0.113.0/24", "2001:db8:c::/112"];
const DENIED: [&str; 2] = ["203.0.113.64/27", "2001:db8:c::40/123"];
const EXEMPT: [&str; 2] = ["203.0.113.77/32", "2001:db8:c::4d/128"];

fn policy(name: &str, allow: &[&str], deny: &[&str]) -> Policy {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect();
    Policy {
        name: name.into(),
        ports: vec![PORT.to_string()],
        allow: texts(allow),
        deny: texts(deny),
    }
}

/// Only the clients' network is allowed, but for its part, but for an address: never the hop that speaks
/// for them.
fn nested() -> Policy {
    policy("nested", &[CLIENTS, EXEMPT].concat(), &DENIED)
}

/// The clients of [`nested`], by the last number of their address, and whether they are allowed.
const JUDGED: [(u8, bool); 5] = [(1, true), (64, false), (77, true), (95, false), (96, true)];

fn client(family: Family, last: u8) -> IpAddr {
    let address = family.client(usize::from(last) - 1);
    address
}

fn target(family: Family, port: u16) -> SocketAddr {
    (Sidecar::address(family), port).into()
}

/// Whom the application sees of a connection from `source` that sends `first`; `None`: it was refused.
fn seen(
    topology: &Sidecar,
    source: IpAddr,
    target: SocketAddr,
    first: &[u8],
) -> Result<Option<Seen>> {
    let opened = topology.client.enter(|| -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect_timeout(&target.into(), PATIENCE)?;
        Ok(socket.into())
    });
    let mut stream = match opened {
        Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(None),
        opened => opened?,
    };
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(first)?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(0) => Ok(None),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
        read => {
            read.with_context(|| format!("from {source} to {target}"))?;
            Ok(Some(serde_json::from_str(&line)?))
        }
    }
}

/// Each of [`JUDGED`] is refused, or seen as itself, `connect` deciding how it comes in; and counted.
fn all_judged(
    agent: &Agent,
    connect: impl Fn(Family, IpAddr) -> Result<Option<Seen>>,
) -> Result<()> {
    let before = agent.tally("nested")?;
    for family in Family::ALL {
        for (last, allowed) in JUDGED {
            let client = client(family, last);
            let seen = connect(family, client).with_context(|| format!("client {client}"))?;
            match &seen {
                Some(seen) => ensure!(
                    allowed && seen.accepted.ip() == client,
                    "{client} was seen as {seen:?}"
                ),
                None => ensure!(!allowed, "{client} was refused"),
            }
        }
    }
    let after = agent.tally("nested")?;
    let denied = Family::ALL.len() * JUDGED.iter().filter(|(_, allowed)| !allowed).count();
    ensure!(
        after.1 - before.1 == denied as u64 && after.0 > before.0,
        "{before:?} became {after:?}"
    );
    Ok(())
}

#[test]
fn by_its_own_packets() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config.policy.push(nested());
        let agent = Agent::start(directory, config)?;
        all_judged(&agent, |family, client| {
            seen(&topology, client, target(family, PORT), b"")
        })?;
        for (family, other) in Family::ALL.into_iter().zip(["10.77.0.1", "fd77::1"]) {
            let other = other.parse()?;
            ensure!(
                seen(&topology, other, target(family, PORT), b"")?.is_none(),
                "{other}, which nobody allows, was let in"
            );
        }
        Ok(())
    });
}

#[test]
fn one_family_is_not_the_other() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config.policy.push(policy("no-ipv6", &[], &["::/0"]));
        let agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let seen = seen(&topology, client(family, 1), target(family, PORT), b"")?;
            ensure!(seen.is_some() == (family == Family::V4), "{family:?}: {seen:?}");
        }
        ensure!(agent.tally("no-ipv6")? == (1, 1), "{:?}", agent.tally("no-ipv6"));
        Ok(())
    });
}

#[test]
fn by_a_local_proxys_bind() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config.trust.uids.push(UID);
        config.policy.push(nested());
        let agent = Agent::start(directory, config)?;
        let routes = local_routes(PROXY, PORT);
        let proxy = proxy(directory, &topology.pod, PLAYGROUND.as_ref(), &routes)?;
        let port = |family| match family {
            Family::V4 => PROXY,
            Family::V6 => PROXY + 1,
        };
        let start = Instant::now();
        all_judged(&agent, |family, client| {
            seen(&topology, client, target(family, port(family)), b"")
        })?;
        // The proxy does not wait for SYNs that nobody answers.
        ensure!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
        proxy.stop()?;
        no_origins(&agent)
    });
}

#[test]
fn by_toa() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let raw = Raw::new(&topology.client)?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config.trust.sources = vec!["198.51.100.0/24".into(), "2001:db8:1b::/64".into()];
        config.policy.push(nested());
        let agent = Agent::start(directory, config)?;
        let mut port = 40_000;
        let ports = std::cell::RefCell::new(&mut port);
        all_judged(&agent, |family, client| {
            let balancer = match family {
                Family::V4 => "198.51.100.1".parse()?,
                Family::V6 => "2001:db8:1b::1".parse()?,
            };
            let mut port = ports.borrow_mut();
            **port += 1;
            let named = Endpoint::from(SocketAddr::new(client, 4711));
            let option = match family {
                Family::V4 => toa::option_v4(254, named).to_vec(),
                Family::V6 => toa::option_v6(254, named).to_vec(),
            };
            let source = SocketAddr::new(balancer, **port);
            match raw.connect(source, target(family, PORT), 1, &option) {
                Ok(mut connection) => {
                    let seen = serde_json::from_str(&connection.receive()?)?;
                    connection.reset()?;
                    Ok(Some(seen))
                }
                Err(error) if format!("{error:#}").contains("does not answer") => Ok(None),
                Err(error) => Err(error),
            }
        })?;
        no_origins(&agent)
    });
}

#[test]
fn by_a_proxy_header() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config.trust.sources = vec!["10.77.0.0/24".into(), "fd77::/64".into()];
        let ports = [PORT.to_string()];
        let unwrap = Unwrap::new(&topology.pod, Sidecar::INTERFACE, &[&ports[0]]);
        config.unwrap.push(unwrap);
        config.policy.push(nested());
        let agent = Agent::start(directory, config)?;
        all_judged(&agent, |family, client| {
            let balancer = match family {
                Family::V4 => "10.77.0.1".parse()?,
                Family::V6 => "fd77::1".parse()?,
            };
            let target = target(family, PORT);
            let ends = Endpoints {
                source: SocketAddr::new(client, 4711).into(),
                destination: target.into(),
            };
            let mut header = Vec::new();
            write::v2(&Peer::Proxied(ends), [].into_iter(), false, &mut header)
                .expect("a short header");
            seen(&topology, balancer, target, &header)
        })?;
        no_origins(&agent)
    });
}

#[test]
fn by_steered_packets() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let ports = [PORT.to_string()];
        let steer = Steer::new("inbound", &topology.pod, &[&ports[0]], STEERED);
        let mut config = Config::new(directory, [steer.on(Sidecar::INTERFACE)])?;
        config.policy.push(nested());
        let agent = Agent::start(directory, config)?;
        let proxy = Proxy::sidecar(&topology.pod, any(STEERED), 0x539)?;
        all_judged(&agent, |family, client| {
            seen(&topology, client, target(family, PORT), b"")
        })?;
        drop(proxy);
        no_origins(&agent)
    });
}
