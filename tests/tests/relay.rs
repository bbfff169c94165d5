//! The relay between real peers: load balancers that send PROXY headers, and servers that know nothing of
//! them or expect one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use agent_common::proxy::{Endpoints, Peer, Tlv, kind, write};
use anyhow::{Context, Result, ensure};
use tests::agent::{Agent, Config, Relay};
use tests::check::no_origins;
use tests::host::{Traces, scenario};
use tests::load::{Application, Load};
use tests::netns::{Netns, run};
use tests::web::Web;
use tests::process::Route;
use tests::proxy::{any, any_of_family};
use tests::report::{Report, Seen};
use tests::topology::{Family, Gateway};
use tests::{eventually, haproxy, nginx};

/// Where the load balancer listens for each family, on the gateway.
const BALANCER: u16 = 9100;
/// Where the relay listens for each family, on the server.
const RELAY: u16 = 9000;
const APPLICATION: u16 = 8080;
/// The gateway's addresses on the server's side.
const SOURCES: [&str; 2] = ["10.78.0.0/24", "fd78::/64"];
const TIMEOUT: Duration = Duration::from_secs(10);

/// A relay for each family that sends on to an application beside it.
fn relays(netns: &Netns, send: &'static str) -> Vec<Relay> {
    Family::ALL
        .into_iter()
        .zip(RELAY..)
        .map(|(family, port)| {
            let upstream = (family.localhost(), APPLICATION).into();
            Relay::proxy(netns, any_of_family(family, port), upstream, send)
        })
        .collect()
}

fn agent(directory: &Path, relays: Vec<Relay>) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.sources = SOURCES.iter().map(|s| (*s).into()).collect();
    config.relay = relays;
    Agent::start(directory, config)
}

/// From the load balancer to the relays.
fn routes() -> Vec<Route> {
    Family::ALL
        .into_iter()
        .zip(0..)
        .map(|(family, n)| {
            let relay = (Gateway::server(family), RELAY + n).into();
            (any_of_family(family, BALANCER + n), relay)
        })
        .collect()
}

/// Where the clients connect to.
fn targets() -> Vec<SocketAddr> {
    Family::ALL
        .into_iter()
        .zip(BALANCER..)
        .map(|(family, port)| (Gateway::front(family), port).into())
        .collect()
}

/// The relay's address for this family, as the gateway reaches it.
fn relay_of(family: Family) -> SocketAddr {
    let port = if family == Family::V4 {
        RELAY
    } else {
        RELAY + 1
    };
    (Gateway::server(family), port).into()
}

fn refused(agent: &Agent, family: Family, reason: &str) -> Result<u64> {
    let listen = any_of_family(family, relay_of(family).port());
    agent.metric(&format!(
        "truepeer_relay_refused_connections_total{{relay=\"{listen}\",reason=\"{reason}\"}}"
    ))
}

/// A header of version 2 that names this client.
fn header(client: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let peer = Peer::Proxied(Endpoints {
        source: client.into(),
        destination: target.into(),
    });
    let mut bytes = Vec::new();
    write::v2(&peer, [].into_iter(), true, &mut bytes).expect("short");
    bytes
}

fn client_of(family: Family) -> SocketAddr {
    (family.client(76), 4711).into()
}

fn connect(netns: &Netns, target: SocketAddr) -> Result<TcpStream> {
    let stream = netns.enter(|| TcpStream::connect_timeout(&target, TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The first line of an application that reports.
fn seen(stream: &mut TcpStream) -> Result<Seen> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    Ok(serde_json::from_slice(&line)?)
}

/// The connection was reset and not ended in order.
fn assert_reset(mut stream: TcpStream, what: &str) -> Result<()> {
    match stream.read(&mut [0; 64]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => Err(anyhow::anyhow!("{what}: {other:?} instead of a reset")),
    }
}

#[test]
fn load_balancers_and_an_unmodified_application() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let before = topology.server.enter(Traces::here)?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let agent = agent(directory, relays(&topology.server, "reveal"))?;
        let mut load = Load::new(targets());
        load.connections = 400;
        for send in [
            "send-proxy",
            "send-proxy-v2",
            "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        ] {
            let haproxy = haproxy::telling(directory, &topology.gateway, send, &routes())?;
            load.run(&topology.client).all_exact().context(send)?;
            haproxy.stop()?;
        }
        {
            let nginx = nginx::telling(directory, &topology.gateway, &routes())?;
            load.run(&topology.client).all_exact()?;
            hops_are_known(&agent, &topology, &load)?;
            nginx.stop()?;
        }
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        before.assert_unchanged(&topology.server.enter(Traces::here)?)
    });
}

/// Both the relay's and the application's sockets have an origin that says who vouches.
fn hops_are_known(agent: &Agent, topology: &Gateway, load: &Load) -> Result<()> {
    let held = load.hold(&topology.client)?;
    let peers = agent.peers()?;
    for connection in &held {
        let known: Vec<_> = peers
            .0
            .iter()
            .filter(|peer| peer.client == connection.client)
            .collect();
        let is_v4 = connection.client.is_ipv4();
        let rule = format!("source {}", SOURCES[usize::from(!is_v4)]);
        ensure!(
            known.len() == 2
                && known
                    .iter()
                    .all(|peer| peer.evidence == "proxy" && peer.trusted_by == rule),
            "{} is known as {known:?}",
            connection.client
        );
        ensure!(
            known
                .iter()
                .any(|peer| peer.original_dst == connection.target)
                && known.iter().any(|peer| peer.local == connection.seen.local),
            "{known:?}"
        );
    }
    Ok(())
}

#[test]
fn servers_that_expect_a_header() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let served = Family::ALL.map(|family| (family.localhost(), APPLICATION).into());
        let mut load = Load::new(targets());
        load.application = Application::Web;
        load.connections = 200;
        let sent = "send-proxy-v2 proxy-v2-options crc32c,unique-id";
        let _balancer = haproxy::telling(directory, &topology.gateway, sent, &routes())?;
        for send in ["proxy-v1", "proxy-v2"] {
            let agent = agent(directory, relays(&topology.server, send))?;
            {
                let _web = Web::nginx_told(directory, &topology.server, &served)?;
                load.run(&topology.client).all_exact().context(send)?;
            }
            let _haproxy = haproxy::told(directory, &topology.server, &served)?;
            load.run(&topology.client).all_exact().context(send)?;
            for target in targets() {
                let mut stream = connect(&topology.client, target)?;
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                let told = format!("unique-id: id-of-{}", stream.local_addr()?.ip());
                ensure!(
                    answer.contains(&told) == (send == "proxy-v2"),
                    "{send}: no {told:?} in {answer:?}"
                );
            }
            ensure!(agent.stop()?.success(), "the agent's exit status");
        }
        Ok(())
    });
}

#[test]
fn without_telling_and_with_spoofed_packets() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let before = topology.server.enter(Traces::here)?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let _balancer = haproxy::telling(directory, &topology.gateway, "send-proxy-v2", &routes())?;
        let mut load = Load::new(targets());
        load.connections = 200;
        for send in ["plain", "transparent"] {
            let mut config = Config::new(directory, [])?;
            config.trust.sources = SOURCES.iter().map(|s| (*s).into()).collect();
            config.relay = relays(&topology.server, send);
            // What the application sees is what is on the wire.
            config.reveal.enabled = false;
            let agent = Agent::start(directory, config)?;
            let outcome = load.run(&topology.client);
            match send {
                "plain" => outcome.all_lost()?,
                _ => outcome.all_exact()?,
            }
            ensure!(agent.stop()?.success(), "the agent's exit status");
        }
        before.assert_unchanged(&topology.server.enter(Traces::here)?)
    });
}

#[test]
fn curl_speaks_for_itself() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let served = Family::ALL.map(|family| (family.localhost(), APPLICATION).into());
        let _web = Web::nginx(directory, &topology.server, &served)?;
        let agent = agent(directory, relays(&topology.server, "reveal"))?;
        for family in Family::ALL {
            let url = format!("http://{}/", relay_of(family));
            let answer =
                run(topology
                    .gateway
                    .command("curl")?
                    .args(["-sS", "--haproxy-protocol", &url]))?;
            let own = Gateway::back(family).to_string();
            ensure!(answer.starts_with(&own), "{own} is told as {answer:?}");
        }
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn what_is_not_a_header_of_a_trusted_sender_is_reset() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let mut relays = relays(&topology.server, "reveal");
        for relay in &mut relays {
            relay.header_timeout = Some(1);
        }
        let agent = agent(directory, relays)?;
        for family in Family::ALL {
            let relay = relay_of(family);
            let good = header(client_of(family), relay);
            let mut changed = good.clone();
            changed[17] ^= 1;
            let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
            for (bytes, reason) in [
                (&b"GET / HTTP/1.1\r\n\r\n"[..], "no_header"),
                (b"\x16\x03\x01\x02\x00", "no_header"),
                (b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n", "address"),
                (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", "line_end"),
                (&long, "line_too_long"),
                (&changed, "checksum"),
                (&good[..20], "timeout"),
                (b"", "timeout"),
            ] {
                let before = refused(&agent, family, reason)?;
                let mut stream = connect(&topology.gateway, relay)?;
                stream.write_all(bytes)?;
                assert_reset(stream, &bytes.escape_ascii().to_string())?;
                let after = refused(&agent, family, reason)?;
                ensure!(after == before + 1, "{reason}: {before}, then {after}");
            }
            // The client's own network is not trusted, whatever it is about to send.
            let before = refused(&agent, family, "untrusted")?;
            let stream = connect(&topology.client, relay)?;
            assert_reset(stream, "an untrusted sender")?;
            ensure!(
                refused(&agent, family, "untrusted")? == before + 1,
                "untrusted"
            );

            // One byte at a time will do.
            let mut stream = connect(&topology.gateway, relay)?;
            for byte in &good {
                stream.write_all(&[*byte])?;
                std::thread::sleep(Duration::from_millis(1));
            }
            let seen = seen(&mut stream)?;
            ensure!(seen.accepted == client_of(family), "{seen:?}");
        }
        no_origins(&agent)
    });
}

#[test]
fn health_checks_are_the_senders_own() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let agent = agent(directory, relays(&topology.server, "reveal"))?;
        for family in Family::ALL {
            // As an AWS network load balancer's.
            let mut local = Vec::new();
            let tlv = Tlv {
                kind: kind::NOOP,
                value: &[10, 11, 12, 13],
            };
            write::v2(&Peer::Local, [tlv].into_iter(), false, &mut local).expect("short");
            for greeting in [&local[..], b"PROXY UNKNOWN\r\n"] {
                let mut stream = connect(&topology.gateway, relay_of(family))?;
                stream.write_all(greeting)?;
                let seen = seen(&mut stream)?;
                let own = stream.local_addr()?;
                ensure!(seen.accepted == own, "{own} is seen as {seen:?}");
            }
            // A check that only connects leaves nothing behind.
            drop(connect(&topology.gateway, relay_of(family))?);
            eventually("the end before a header is counted", TIMEOUT, || {
                Ok((refused(&agent, family, "closed")? == 1).then_some(()))
            })?;
        }
        no_origins(&agent)
    });
}

#[test]
fn each_end_of_the_stream_ends_by_itself() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let server = std::net::TcpListener::bind;
        let listener = topology
            .server
            .enter(|| server((Family::V4.localhost(), APPLICATION)))?;
        let mut relays = relays(&topology.server, "reveal");
        relays[0].idle_timeout = Some(2);
        let agent = agent(directory, relays)?;
        let relay = relay_of(Family::V4);
        let open = || -> Result<(TcpStream, TcpStream)> {
            let mut client = connect(&topology.gateway, relay)?;
            client.write_all(&header(client_of(Family::V4), relay))?;
            let (upstream, _) = listener.accept()?;
            upstream.set_read_timeout(Some(TIMEOUT))?;
            Ok((client, upstream))
        };

        // The client is done, the server is not; and the other way round.
        for client_first in [true, false] {
            let (client, server) = open()?;
            let (mut first, mut second) = if client_first {
                (client, server)
            } else {
                (server, client)
            };
            first.write_all(b"question")?;
            first.shutdown(Shutdown::Write)?;
            let mut question = String::new();
            second.read_to_string(&mut question)?;
            ensure!(question == "question", "{question:?}");
            std::thread::sleep(Duration::from_millis(100));
            second.write_all(b"answer")?;
            drop(second);
            let mut answer = String::new();
            first.read_to_string(&mut answer)?;
            ensure!(answer == "answer", "{answer:?}");
        }
        // A reset passes through, in both directions.
        for client_first in [true, false] {
            let (client, server) = open()?;
            let (first, second) = if client_first {
                (client, server)
            } else {
                (server, client)
            };
            socket2::SockRef::from(&first).set_linger(Some(Duration::ZERO))?;
            drop(first);
            assert_reset(second, "the other end")?;
        }
        // Silence for the idle timeout, but not a moment less.
        let (mut client, mut server) = open()?;
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(3) {
            client.write_all(b"x")?;
            server.read_exact(&mut [0])?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let silent = Instant::now();
        assert_reset(client, "an idle connection")?;
        assert_reset(server, "an idle connection's other end")?;
        let waited = silent.elapsed().as_secs_f64();
        ensure!((1.8..4.0).contains(&waited), "{waited} s");
        no_origins(&agent)
    });
}

#[test]
fn bytes_arrive_as_they_were_sent() {
    const BYTES: usize = 256 << 20;
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let agent = agent(directory, relays(&topology.server, "reveal"))?;
        let relay = relay_of(Family::V6);
        let mut stream = connect(&topology.gateway, relay)?;
        // Header and payload in one segment.
        let mut first = header(client_of(Family::V6), relay);
        first.extend(b"first");
        stream.write_all(&first)?;
        seen(&mut stream)?;
        let mut echo = [0; 5];
        stream.read_exact(&mut echo)?;
        ensure!(&echo == b"first", "{echo:?}");

        let mut sender = stream.try_clone()?;
        let sent = std::thread::spawn(move || -> Result<u64> {
            let mut pattern = Pattern::default();
            let mut left = BYTES;
            while left > 0 {
                let chunk = pattern.chunk(left.min(100_003));
                sender.write_all(&chunk)?;
                left -= chunk.len();
            }
            sender.shutdown(Shutdown::Write)?;
            Ok(pattern.hash)
        });
        // A reader that is slow at first: the sender has to wait.
        std::thread::sleep(Duration::from_millis(500));
        let (mut received, mut hash) = (0, Hash::default());
        let mut buffer = vec![0; 1 << 16];
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                n => {
                    hash.add(&buffer[..n]);
                    received += n;
                }
            }
        }
        let sent = sent.join().expect("no panic")?;
        ensure!(
            received == BYTES && hash.0 == sent,
            "{received} bytes, or others"
        );
        no_origins(&agent)
    });
}

/// FNV-1a of 64 bits.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Bytes that never repeat, with their hash.
#[derive(Default)]
struct Pattern {
    state: u64,
    hasher: Hash,
    hash: u64,
}

impl Pattern {
    fn chunk(&mut self, length: usize) -> Vec<u8> {
        let bytes = (0..length)
            .map(|_| {
                self.state = self
                    .state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (self.state >> 33) as u8
            })
            .collect::<Vec<_>>();
        self.hasher.add(&bytes);
        self.hash = self.hasher.0;
        bytes
    }
}
