//! guard: policies judge the true client, wherever it is told.

use std::cell::Cell;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use agent_common::{Endpoint, toa};
use anyhow::{Context, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Policy, Steer, Trust, Unwrap};
use tests::balancer;
use tests::clients::raw::Raw;
use tests::clients::tcp;
use tests::host::scenario;
use tests::host::user::UID;
use tests::proxies::own::Proxy;
use tests::proxies::proxy_header;
use tests::proxies::{any, local_routes};
use tests::roles::proxy;
use tests::servers::report::{Report, Seen};
use tests::topology::{Family, Gateway, Sidecar};
use tests::wait::eventually;

use crate::stage::{JUDGED, PATIENCE, PORT, client, nested, policy, seen, target};

const PLAYGROUND: &str = env!("CARGO_BIN_EXE_playground");
const PROXY: u16 = 15001;
const STEERED: u16 = 15006;

/// Asserts that each of [`JUDGED`] is refused or seen as itself, and that the agent counts it. `connect` decides how a
/// client comes in.
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
    eventually("what is refused is logged", || {
        let log = agent.access_log()?;
        let is_logged = |client: IpAddr| {
            let is_it = |text: &str| text.parse().is_ok_and(|end: SocketAddr| end.ip() == client);
            log.iter()
                .any(|line| line["client"].as_str().is_some_and(is_it))
        };
        let mut denied = JUDGED.iter().filter(|(_, allowed)| !allowed);
        Ok(denied
            .all(|(last, _)| Family::ALL.iter().all(|f| is_logged(client(*f, *last))))
            .then_some(()))
    })?;
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
            ensure!(
                seen.is_some() == (family == Family::V4),
                "{family:?}: {seen:?}"
            );
        }
        for counter in ["allowed", "denied"] {
            let metric = format!("truepeer_policy_{counter}_total{{policy=\"no-ipv6\"}}");
            ensure!(agent.metric(&metric)? == 1, "{metric}");
        }
        Ok(())
    });
}

#[test]
fn by_a_local_proxys_bind() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config.trust.push(Trust::uid(UID));
        config.policy.push(nested());
        let agent = Agent::start(directory, config)?;
        let routes = local_routes(PROXY, PORT);
        let proxy = proxy(directory, &topology.pod, PLAYGROUND.as_ref(), &routes)?;
        let port = |family| match family {
            Family::V4 => PROXY,
            Family::V6 => PROXY + 1,
        };
        let repeated = || topology.pod.tcp_counter("TCPSynRetrans");
        let before = repeated()?;
        all_judged(&agent, |family, client| {
            seen(&topology, client, target(family, port(family)), b"")
        })?;
        // The proxy does not wait for SYNs that nobody answers.
        let repeated = repeated()? - before;
        ensure!(repeated == 0, "{repeated} SYNs were sent again");
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
        config
            .trust
            .extend(Trust::sources(["198.51.100.0/24", "2001:db8:1b::/64"]));
        config.policy.push(nested());
        let agent = Agent::start(directory, config)?;
        let ports = Cell::new(40_000);
        all_judged(&agent, |family, client| {
            let balancer = match family {
                Family::V4 => "198.51.100.1".parse()?,
                Family::V6 => "2001:db8:1b::1".parse()?,
            };
            ports.set(ports.get() + 1);
            let named = Endpoint::from(SocketAddr::new(client, 4711));
            let option = match family {
                Family::V4 => toa::option_v4(254, named).to_vec(),
                Family::V6 => toa::option_v6(254, named).to_vec(),
            };
            let source = SocketAddr::new(balancer, ports.get());
            let target = target(family, PORT);
            let connection = raw.try_connect(source, target, 1, &option, PATIENCE)?;
            let seen = connection.map(|mut connection| {
                let seen = serde_json::from_str(&connection.receive()?)?;
                connection.reset()?;
                anyhow::Ok(seen)
            });
            seen.transpose()
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
        config
            .trust
            .extend(Trust::sources(["10.77.0.0/24", "fd77::/64"]));
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
            let header = proxy_header::v2_with_checksum(SocketAddr::new(client, 4711), target);
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

#[test]
fn by_the_relay() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(balancer::APPLICATION))?;
        let mut config = Config::new(directory, [])?;
        config.relay = balancer::relays(&topology.server, "reveal");
        config.trust.extend(Trust::sources(balancer::SOURCES));
        let listens = Family::ALL.map(balancer::relay_of);
        config.policy.push(Policy {
            ports: listens
                .iter()
                .map(|listen| listen.port().to_string())
                .collect(),
            ..nested()
        });
        let agent = Agent::start(directory, config)?;
        for (family, listen) in Family::ALL.into_iter().zip(listens) {
            for (last, allowed) in JUDGED {
                let client = SocketAddr::new(client(family, last), 4711);
                let mut stream = tcp::connect(&topology.gateway, listen)?;
                stream.write_all(&proxy_header::v2_with_checksum(client, listen))?;
                if allowed {
                    let seen = tcp::seen(&mut stream)?;
                    ensure!(seen.accepted == client, "{client} was seen as {seen:?}");
                } else {
                    tcp::assert_reset(stream, &client.to_string())?;
                }
            }
            let denied = balancer::refused(&agent, family, "denied")?;
            ensure!(denied == 2, "{denied} denied");
        }
        no_origins(&agent)
    });
}
