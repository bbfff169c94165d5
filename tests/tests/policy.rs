//! guard: policies judge the true client, wherever it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent_common::{Endpoint, toa};
use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};
use tests::agent::{Agent, Config, Policy, Steer, Unwrap, truepeer};
use tests::check::no_origins;
use tests::eventually;
use tests::host::scenario;
use tests::netns::Netns;
use tests::proxy::{Proxy, any, connect_from, local_routes};
use tests::raw::Raw;
use tests::relay;
use tests::report::{Report, Seen};
use tests::topology::{Family, Gateway, Sidecar};
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
    family.client(usize::from(last) - 1)
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
        let socket = Socket::new(
            Domain::for_address(target),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
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
    eventually("what is refused is logged", SOON, || {
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
            let header = relay::header(SocketAddr::new(client, 4711), target);
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
        let _report = Report::start(&topology.server, any(relay::APPLICATION))?;
        let mut config = Config::new(directory, [])?;
        config.relay = relay::relays(&topology.server, "reveal");
        config.trust.sources = relay::SOURCES.map(Into::into).into();
        let listens = Family::ALL.map(relay::relay_of);
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
                let mut stream = relay::connect(&topology.gateway, listen)?;
                stream.write_all(&relay::header(client, listen))?;
                if allowed {
                    let seen = relay::seen(&mut stream)?;
                    ensure!(seen.accepted == client, "{client} was seen as {seen:?}");
                } else {
                    relay::assert_reset(stream, &client.to_string())?;
                }
            }
            let denied = relay::refused(&agent, family, "denied")?;
            ensure!(denied == 2, "{denied} denied");
        }
        no_origins(&agent)
    });
}

/// Connects from the calling thread's namespace in the name of `client`, as a trusted proxy beside the
/// application would; whether it was let in.
fn is_admitted(client: IpAddr) -> Result<bool> {
    let localhost: IpAddr = match client {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let stream = match connect_from((client, 0).into(), (localhost, PORT).into(), 0) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
        opened => opened?,
    };
    stream.set_read_timeout(Some(SOON))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let seen: Seen = serde_json::from_str(&line)?;
    ensure!(
        seen.accepted.ip() == client,
        "{client} was seen as {seen:?}"
    );
    Ok(true)
}

/// Pseudo-random numbers (a linear congruential generator by Knuth).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        const A: u64 = 6_364_136_223_846_793_005;
        self.0 = self
            .0
            .wrapping_mul(A)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    /// An address of the prefix.
    fn within(&mut self, prefix: IpNet) -> IpAddr {
        let bits = u128::from(self.next()) << 96 | u128::from(self.next()) << 48;
        let bits = bits | u128::from(self.next());
        match prefix {
            IpNet::V4(net) => {
                let host = bits as u32 & u32::from(net.hostmask());
                Ipv4Addr::from(u32::from(net.network()) | host).into()
            }
            IpNet::V6(net) => {
                let host = bits & u128::from(net.hostmask());
                Ipv6Addr::from(u128::from(net.network()) | host).into()
            }
        }
    }
}

/// Prefixes within 16.0.0.0/4 and 2001:db8::/32, and whether they are allowed: the reference that the
/// kernel is compared with.
struct Many(HashMap<IpNet, bool>);

impl Many {
    fn new(number: usize) -> Self {
        let mut random = Random(1);
        let mut all = HashMap::new();
        while all.len() < number {
            let (within, most) = if all.len() % 4 == 0 {
                ("2001:db8::/32".parse::<IpNet>(), 128)
            } else {
                ("16.0.0.0/4".parse(), 32)
            };
            let within = within.expect("a prefix");
            let shortest = u64::from(within.prefix_len()) + 4;
            let length = shortest + random.next() % (most - shortest + 1);
            let prefix = IpNet::new(random.within(within), length as u8).expect("a length");
            all.insert(prefix.trunc(), random.next() % 2 == 0);
        }
        Self(all)
    }

    fn texts(&self, allowed: bool) -> Vec<String> {
        let chosen = self.0.iter().filter(|(_, is)| **is == allowed);
        chosen.map(|(prefix, _)| prefix.to_string()).collect()
    }

    fn allows(&self, client: IpAddr) -> bool {
        let full = IpNet::from(client).prefix_len();
        let lengths = (0..=full).rev();
        let mut prefixes = lengths.filter_map(|n| Some(IpNet::new(client, n).ok()?.trunc()));
        // With an allow-list, who is in none is denied.
        prefixes
            .find_map(|p| self.0.get(&p))
            .is_some_and(|allowed| *allowed)
    }
}

#[test]
fn a_hundred_thousand_prefixes() {
    const PREFIXES: usize = 100_000;
    const SAMPLES: usize = 2000;
    scenario(|directory| {
        let pod = Netns::new("pod")?;
        let _report = Report::start(&pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        // This test connects by itself.
        config.trust.uids.push(0);
        let few = Agent::start(directory, config)?;
        let without = few.ready_after;
        let each = |many: &Many| {
            let mut random = Random(2);
            let prefixes: Vec<_> = many.0.keys().copied().collect();
            pod.enter(|| -> Result<(Duration, usize)> {
                let start = Instant::now();
                let mut admitted = 0;
                for n in 0..SAMPLES {
                    let client = random.within(prefixes[n * prefixes.len() / SAMPLES]);
                    let is = is_admitted(client)?;
                    ensure!(is == many.allows(client), "{client}: {is}");
                    admitted += usize::from(is);
                }
                Ok((start.elapsed() / SAMPLES as u32, admitted))
            })
        };
        let many = Many::new(PREFIXES);
        let mut config = few.config().clone();
        few.stop()?;
        config.policy.push(Policy {
            name: "many".into(),
            ports: vec![PORT.to_string()],
            allow: many.texts(true),
            deny: many.texts(false),
        });
        let agent = Agent::start(directory, config.clone())?;
        let (took, admitted) = each(&many)?;
        ensure!(
            admitted > SAMPLES / 4 && admitted < SAMPLES * 3 / 4,
            "{admitted}"
        );

        // All others, in the place of these.
        let other = Many(many.0.iter().map(|(prefix, is)| (*prefix, !is)).collect());
        config.policy[0].allow = other.texts(true);
        config.policy[0].deny = other.texts(false);
        config.write()?;
        let start = Instant::now();
        agent.signal(Signal::SIGHUP)?;
        eventually("the other prefixes", SOON, || {
            Ok(agent
                .log()?
                .contains("configuration read again")
                .then_some(()))
        })?;
        let reloaded = start.elapsed();
        each(&other)?;
        println!(
            "{PREFIXES} prefixes: ready after {:?}, without them {without:?}; reloaded in {reloaded:?}; \
             {took:?} a connection",
            agent.ready_after
        );
        no_origins(&agent)
    });
}

#[test]
fn reloads_under_load() {
    const RELOADS: u32 = 12;
    scenario(|directory| {
        let pod = Netns::new("pod")?;
        let _report = Report::start(&pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config.trust.uids.push(0);
        let with_many = |number: usize| {
            let mut policy = nested();
            policy.deny.extend(Many::new(number).texts(false));
            policy
        };
        config.policy.push(with_many(0));
        let agent = Agent::start(directory, config.clone())?;
        let localhost = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
        let source = SocketAddr::new(client(Family::V4, 1), 0);
        let held = pod.enter(|| connect_from(source, localhost, 0))?;
        let (done, judged) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let loads: Vec<_> = Family::ALL
                .into_iter()
                .map(|family| {
                    let (pod, done, judged) = (&pod, &done, &judged);
                    scope.spawn(move || {
                        pod.join()?;
                        while !done.load(Ordering::Relaxed) {
                            for (last, allowed) in JUDGED {
                                let client = client(family, last);
                                ensure!(is_admitted(client)? == allowed, "{client}: {}", !allowed);
                                judged.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            let reloads = (1..=RELOADS).try_for_each(|n| -> Result<()> {
                config.policy[0] = with_many(n as usize % 3 * 2000);
                config.write()?;
                agent.signal(Signal::SIGHUP)?;
                eventually("the configuration is read again", SOON, || {
                    let read = agent.log()?.matches("configuration read again").count();
                    Ok((read == n as usize).then_some(()))
                })
            });
            done.store(true, Ordering::Relaxed);
            for load in loads {
                load.join().expect("no load panics")?;
            }
            reloads
        })?;
        let judged = judged.into_inner();
        ensure!(judged > 1000, "only {judged} connections");
        println!("{RELOADS} reloads, {judged} connections: wrong 0");

        // What was admitted goes on, even if it would not be any more.
        config.policy[0] = policy("nobody", &[], &["0.0.0.0/0", "::/0"]);
        config.write()?;
        agent.signal(Signal::SIGHUP)?;
        eventually("nobody is admitted", SOON, || {
            let admitted = pod.enter(|| is_admitted(source.ip()))?;
            Ok((!admitted).then_some(()))
        })?;
        let mut held = BufReader::new(held);
        held.read_line(&mut String::new())?;
        held.get_mut().write_all(b"ping\n")?;
        let mut echo = String::new();
        held.read_line(&mut echo)?;
        ensure!(echo == "ping\n", "{echo:?}");
        drop(held);

        // Without policies nothing is attached.
        config.policy.clear();
        config.write()?;
        agent.signal(Signal::SIGHUP)?;
        eventually("everybody is admitted", SOON, || {
            Ok(pod
                .enter(|| is_admitted(client(Family::V4, 64)))?
                .then_some(()))
        })?;
        eventually("nothing judges", SOON, || {
            let status = agent.status()?.to_string();
            Ok((!status.contains("truepeer_guard")).then_some(()))
        })?;
        no_origins(&agent)
    });
}

#[test]
fn without_an_agent() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config.policy.push(nested());
        let agent = Agent::start(directory, config)?;
        let connect = |family, last| {
            let seen = seen(&topology, client(family, last), target(family, PORT), b"")?;
            anyhow::Ok(seen.is_some())
        };
        let config = agent.kill()?;
        for family in Family::ALL {
            ensure!(connect(family, 1)? && !connect(family, 64)?, "{family:?}");
        }
        let file = config.write()?.display().to_string();
        let status = truepeer(&["status", "-o", "json", "--config", &file])?;
        let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
        let tally = &status["policies"][0];
        ensure!(
            tally["policy"] == "nested" && tally["denied"] == 2 && tally["allowed"] == 2,
            "{status}"
        );
        let detach = truepeer(&["detach", "--config", &file])?;
        ensure!(detach.status.success(), "{detach:?}");
        for family in Family::ALL {
            ensure!(connect(family, 64)?, "{family:?}: refused by nobody");
        }
        Ok(())
    });
}
