//! What the relay lets pass and what it refuses, byte by byte.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use agent_common::proxy::{Peer, Tlv, kind, write};
use anyhow::{Result, ensure};
use tests::agent::records::no_origins;
use tests::balancer::{APPLICATION, agent, client_of, refused, relay_of, relays};
use tests::clients::tcp::{assert_refused, assert_reset, connect, seen};
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::v2_with_checksum;
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};
use tests::wait::{Limit, SOON, eventually};

#[test]
fn what_is_not_a_header_of_a_trusted_sender_is_reset() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let mut relays = relays(&topology.server, "reveal");
        for relay in &mut relays {
            relay.header_timeout = Some(Limit::secs(1).whole_secs());
        }
        let agent = agent(directory, relays)?;
        for family in Family::ALL {
            let relay = relay_of(family);
            let good = v2_with_checksum(client_of(family), relay);
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
            assert_refused(&topology.client, relay, "an untrusted sender")?;
            ensure!(
                refused(&agent, family, "untrusted")? == before + 1,
                "untrusted"
            );

            // A header may come byte by byte; Nagle's algorithm is off, so that each byte is a segment.
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
            // A header as an AWS network load balancer sends it.
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
            eventually("the end before a header is counted", || {
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
        let listener = topology
            .server
            .enter(|| TcpListener::bind((Family::V4.localhost(), APPLICATION)))?;
        let mut relays = relays(&topology.server, "reveal");
        let idle = Limit::secs(2).whole_secs();
        relays[0].idle_timeout = Some(idle);
        let idle = Duration::from_secs(idle.into());
        let agent = agent(directory, relays)?;
        let relay = relay_of(Family::V4);
        let open = || -> Result<(TcpStream, TcpStream)> {
            let mut client = connect(&topology.gateway, relay)?;
            client.write_all(&v2_with_checksum(client_of(Family::V4), relay))?;
            let (upstream, _) = listener.accept()?;
            upstream.set_read_timeout(Some(SOON.here()))?;
            Ok((client, upstream))
        };

        // The client has finished and the server has not, and then the other way round.
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
            // The connection is half open for a moment, and nothing ends it.
            std::thread::sleep(Duration::from_millis(100));
            second.write_all(b"answer")?;
            drop(second);
            let mut answer = String::new();
            first.read_to_string(&mut answer)?;
            ensure!(answer == "answer", "{answer:?}");
        }
        // A reset passes through in both directions.
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
        // A connection is reset when it has been silent for the idle timeout, and not before.
        let (mut client, mut server) = open()?;
        let since = Instant::now();
        while since.elapsed() < idle * 3 / 2 {
            client.write_all(b"x")?;
            server.read_exact(&mut [0])?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let silent = Instant::now();
        assert_reset(client, "an idle connection")?;
        assert_reset(server, "an idle connection's other end")?;
        let waited = silent.elapsed();
        ensure!(
            (idle * 9 / 10..idle * 2).contains(&waited),
            "{waited:?} of silence, and the timeout is {idle:?}"
        );
        no_origins(&agent)
    });
}

#[test]
fn bytes_arrive_as_they_were_sent() {
    const BYTES: usize = 64 << 20;
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let agent = agent(directory, relays(&topology.server, "reveal"))?;
        let relay = relay_of(Family::V6);
        let mut stream = connect(&topology.gateway, relay)?;
        // The header and the first payload are in one segment.
        let mut first = v2_with_checksum(client_of(Family::V6), relay);
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
        // The reader is slow at first, so that the buffers between fill up and the sender has to wait.
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
