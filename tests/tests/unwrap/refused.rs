//! What is no PROXY header of a trusted sender in one segment: both ends are reset at once, and the server
//! never has the connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use agent_common::Counter;
use agent_common::proxy::Peer;
use anyhow::{Context, Result, ensure};
use tests::agent::Agent;
use tests::clients::tcp::connect;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::{anonymous, telling, v1, v2, with_tlv};
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use crate::stage::in_pod;

const PORT: u16 = 8080;

/// A server that is to have no connection.
struct Stage {
    sidecar: Sidecar,
    server: TcpListener,
    agent: Agent,
}

impl Stage {
    fn new(directory: &Path, versions: &[&str]) -> Result<Self> {
        let sidecar = Sidecar::new()?;
        let server = sidecar.pod.enter(|| TcpListener::bind(any(PORT)))?;
        server.set_nonblocking(true)?;
        let mut config = in_pod(directory, &sidecar, &["8080"])?;
        config.unwrap[0].versions = versions.iter().map(|v| (*v).into()).collect();
        Ok(Self {
            sidecar,
            server,
            agent: Agent::start(directory, config)?,
        })
    }

    /// `attempt` fails by a reset, at once; the server sees nothing of it, and the agent tells.
    fn refused(
        &self,
        counter: Counter,
        reason: &str,
        attempt: impl FnOnce() -> Result<SocketAddr>,
    ) -> Result<()> {
        let counted = self.agent.counter(counter)?;
        let logged = self.agent.access_log()?.len();
        let repeated = || self.sidecar.client.tcp_counter("TCPTimeouts");
        let before = repeated()?;
        let own = attempt()?;
        // At once: before the client sends anything again.
        let repeated = repeated()? - before;
        ensure!(repeated == 0, "{repeated} segments were sent again");
        let counted = self.agent.counter(counter)? - counted;
        ensure!(counted == 1, "{}: {counted}", counter.name());
        let line = eventually("a line in the access log", || {
            Ok(self.agent.access_log()?.split_off(logged).pop())
        })?;
        ensure!(line["refused"] == reason, "{line}");
        ensure!(line.get("client").is_none(), "{line}");
        ensure!(line["remote"] == own.to_string(), "{line}");
        let accepted = self.server.accept();
        ensure!(
            accepted
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            "{accepted:?}"
        );
        let table = self.sidecar.pod.enter(|| -> Result<String> {
            let table = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
            Ok(table("tcp")? + &table("tcp6")?)
        })?;
        // proc_pid_net(5): 03 is a handshake that waits.
        let waits = |line: &&str| line.split_whitespace().nth(3) == Some("03");
        ensure!(table.lines().find(waits).is_none(), "{table}");
        Ok(())
    }

    /// Sends `first` to the server, and reads the reset.
    fn sends(&self, family: Family, first: &[u8]) -> Result<SocketAddr> {
        let target = (Sidecar::address(family), PORT).into();
        let mut stream = connect(&self.sidecar.client, target)?;
        stream.write_all(first)?;
        is_reset(stream)
    }
}

fn is_reset(mut stream: TcpStream) -> Result<SocketAddr> {
    let own = stream.local_addr()?;
    let answer = stream.read(&mut [0; 1]);
    ensure!(
        answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
        "{answer:?}"
    );
    Ok(own)
}

#[test]
fn no_header_and_wrong_headers() {
    scenario(|directory| {
        let stage = Stage::new(directory, &["v2", "v1"])?;
        for cookies in ["0", "2"] {
            let pod = &stage.sidecar.pod;
            pod.set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
            for family in Family::ALL {
                let client = SocketAddr::new(family.client(6), 4711);
                let target = SocketAddr::new(Sidecar::address(family), PORT);
                let (v1, v2) = (v1(client, target), v2(client, target));
                let changed = |at: usize, byte: u8| {
                    let mut header = v2.clone();
                    header[at] = byte;
                    [&header, &b"ping\n"[..]].concat()
                };
                let mut damaged = telling(client, target);
                if let Some(byte) = damaged.last_mut() {
                    *byte ^= 1;
                }
                let none = (Counter::UnwrapNoHeader, "no_header");
                let invalid = (Counter::UnwrapInvalid, "invalid_header");
                let split = (Counter::UnwrapSplit, "split_header");
                for ((counter, reason), what, first) in [
                    (none, "HTTP", b"GET / HTTP/1.0\r\n\r\n".to_vec()),
                    (none, "a byte", b"x".to_vec()),
                    (none, "the TLS of a client", [22, 3, 1, 2, 0, 1].repeat(60)),
                    (none, "a v2 header with a wrong signature", changed(5, b'x')),
                    (invalid, "a wrong checksum", damaged),
                    (invalid, "a TLV that ends beyond the header", {
                        let mut header = with_tlv(client, target, Some(9));
                        let length = header.len();
                        header[length - 10] += 1;
                        header
                    }),
                    (
                        split,
                        "more than a segment on Ethernet carries",
                        with_tlv(client, target, Some(1460)),
                    ),
                    (invalid, "version 3", changed(12, 0x31)),
                    (invalid, "an unknown command", changed(12, 0x22)),
                    (invalid, "no room for the addresses", changed(15, 8)),
                    (
                        invalid,
                        "v1 of no family",
                        b"PROXY TCP5 1.1.1.1 2.2.2.2 3 4\r\n".to_vec(),
                    ),
                    (
                        invalid,
                        "v1 of no address",
                        b"PROXY TCP4 1.1.1.256 2.2.2.2 3 4\r\n".to_vec(),
                    ),
                    (split, "a part of v1", v1[..20].to_vec()),
                    (split, "a part of v2", v2[..20].to_vec()),
                    (split, "a byte of v2", v2[..1].to_vec()),
                ] {
                    stage
                        .refused(counter, reason, || stage.sends(family, &first))
                        .with_context(|| format!("{what}, {family:?}, syncookies {cookies}"))?;
                }
                stage.refused(none.0, none.1, || {
                    let stream = connect(&stage.sidecar.client, target)?;
                    stream.shutdown(std::net::Shutdown::Write)?;
                    is_reset(stream)
                })?;
            }
        }
        Ok(())
    });
}

#[test]
fn versions_that_are_not_taken() {
    for (version, other) in [("v2", 1), ("v1", 2)] {
        scenario(|directory| {
            let stage = Stage::new(directory, &[version])?;
            for family in Family::ALL {
                let client = SocketAddr::new(family.client(6), 4711);
                let target = SocketAddr::new(Sidecar::address(family), PORT);
                let header = [v1(client, target), v2(client, target)][other - 1].clone();
                stage.refused(Counter::UnwrapInvalid, "invalid_header", || {
                    stage.sends(family, &header)
                })?;
            }
            Ok(())
        });
    }
}

#[test]
fn untrusted_senders() {
    scenario(|directory| {
        let stage = Stage::new(directory, &["v2", "v1"])?;
        for family in Family::ALL {
            let target = SocketAddr::new(Sidecar::address(family), PORT);
            for _ in 0..2 {
                stage.refused(Counter::UnwrapUntrusted, "untrusted", || {
                    let source = (family.client(0), 4711).into();
                    let answer = stage
                        .sidecar
                        .client
                        .enter(|| tests::clients::load::connect(source, target));
                    ensure!(
                        answer
                            .as_ref()
                            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused),
                        "{answer:?}"
                    );
                    Ok(source)
                })?;
            }
        }
        Ok(())
    });
}

/// A connection that names nobody is not refused, and the server sees the sender.
#[test]
fn nobody_is_named() {
    scenario(|directory| {
        let stage = Stage::new(directory, &["v2", "v1"])?;
        stage.server.set_nonblocking(false)?;
        for family in Family::ALL {
            let target = (Sidecar::address(family), PORT).into();
            for header in [
                anonymous(&Peer::Local),
                anonymous(&Peer::Unknown),
                b"PROXY UNKNOWN\r\n".to_vec(),
                b"PROXY UNKNOWN whatever 1 2\r\n".to_vec(),
            ] {
                let mut stream = connect(&stage.sidecar.client, target)?;
                stream.write_all(&[&header, &b"ping"[..]].concat())?;
                let own = stream.local_addr()?;
                let (mut accepted, client) = stage.server.accept()?;
                let client = tests::host::listener::canonical(client);
                ensure!(client == own, "{own} was seen as {client}");
                let mut ping = [0; 4];
                accepted.read_exact(&mut ping)?;
                ensure!(&ping == b"ping", "{ping:?}");
            }
        }
        Ok(())
    });
}
