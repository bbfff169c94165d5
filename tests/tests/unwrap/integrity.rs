//! Every byte behind a PROXY header arrives once and in order, whatever the network does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpMaxSeg;
use socket2::{Domain, Socket, Type};
use tests::agent::Agent;
use tests::agent::records::{no_origins, none_refused};
use tests::clients::exchange::{serve, with_server};
use tests::clients::tcp::connect_with;
use tests::host::listener::{Listener, canonical};
use tests::host::netns::{Netns, run};
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::{v1, v2, with_tlv};
use tests::topology::{Family, Gateway};

use crate::stage::on_server;

const PORT: u16 = 8080;

/// A server behind a router, which may lose packets in both directions.
struct Stage {
    gateway: Gateway,
    agent: Agent,
    _server: Listener,
}

impl Stage {
    fn new(directory: &Path) -> Result<Self> {
        let gateway = Gateway::new()?;
        Ok(Self {
            _server: Listener::start(&gateway.server, any(PORT), false, serve)?,
            agent: Agent::start(directory, on_server(directory, &gateway, &["8080"])?)?,
            gateway,
        })
    }

    fn lose(&self, percent: f64) -> Result<()> {
        for iptables in ["iptables", "ip6tables"] {
            run(self
                .gateway
                .gateway
                .command(iptables)?
                .args(["-A", "FORWARD", "-p", "tcp", "-m", "statistic"])
                .args(["--mode", "random", "--probability"])
                .args([&(percent / 100.0).to_string(), "-j", "DROP"]))?;
        }
        Ok(())
    }

    /// Makes one connection with this header, on which a number of blocks goes each way.
    fn connect(
        &self,
        family: Family,
        header: &[u8],
        client: SocketAddr,
        blocks: u64,
        prepare: impl FnOnce(&Socket) -> io::Result<()> + Send,
    ) -> Result<()> {
        let target = (Gateway::server(family), PORT).into();
        let stream = connect_with(&self.gateway.client, target, prepare)?;
        let seen = with_server(stream, header, blocks)?;
        ensure!(seen == client, "{client} was seen as {seen}");
        Ok(())
    }

    /// Headers of the usual length, shorter and longer.
    fn headers(family: Family) -> (SocketAddr, [Vec<u8>; 3]) {
        let client = SocketAddr::new(family.client(6), 4711);
        let target = SocketAddr::new(Gateway::server(family), PORT);
        let headers = [
            v2(client, target),
            with_tlv(client, target, Some(100)),
            v1(client, target),
        ];
        (client, headers)
    }

    fn each(
        &self,
        blocks: u64,
        prepare: impl Fn(&Socket) -> io::Result<()> + Copy + Send,
    ) -> Result<()> {
        for family in Family::ALL {
            let (client, headers) = Self::headers(family);
            for header in headers {
                self.connect(family, &header, client, blocks, prepare)
                    .with_context(|| format!("{family:?}, a header of {}", header.len()))?;
            }
        }
        Ok(())
    }

    fn good(&self) -> Result<()> {
        none_refused(&self.agent)?;
        no_origins(&self.agent)
    }
}

/// Exchanges more than a gigabyte in all.
#[test]
fn under_loss() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        stage.lose(0.5)?;
        let sacks = || stage.gateway.client.tcp_counter("TCPSackRecovery");
        let before = sacks()?;
        stage.each(1500, |_| Ok(()))?;
        let recovered = sacks()? - before;
        ensure!(recovered > 10, "{recovered} losses were found by SACK");
        let translated = stage.agent.counter(Counter::UnwrapTranslated)?;
        ensure!(translated >= 4, "{translated} connections are translated");
        stage.good()
    });
}

#[test]
fn without_sack_and_timestamps() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        stage.lose(0.1)?;
        for (sack, timestamps) in [("0", "0"), ("0", "1"), ("1", "0")] {
            let server: &Netns = &stage.gateway.server;
            server.set_sysctl("net/ipv4/tcp_sack", sack)?;
            server.set_sysctl("net/ipv4/tcp_timestamps", timestamps)?;
            stage
                .each(50, |_| Ok(()))
                .with_context(|| format!("SACK {sack}, timestamps {timestamps}"))?;
        }
        stage.good()
    });
}

#[test]
fn small_segments_and_windows() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let server = &stage.gateway.server;
        server.set_sysctl("net/ipv4/tcp_rmem", "4096 4096 4096")?;
        for (mss, buffer) in [(536, 1 << 16), (1460, 2304)] {
            stage
                .each(4, |socket| {
                    setsockopt(socket, TcpMaxSeg, &mss)?;
                    socket.set_recv_buffer_size(buffer)
                })
                .with_context(|| format!("MSS {mss}, a buffer of {buffer}"))?;
        }
        stage.good()
    });
}

/// A router cuts packets of IPv4 into fragments, of which only the first has a TCP header.
#[test]
fn in_fragments() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let Gateway {
            client,
            gateway,
            server,
        } = &stage.gateway;
        // Then the client lets routers cut its packets.
        client.set_sysctl("net/ipv4/ip_no_pmtu_disc", "1")?;
        gateway.ip("route replace 10.78.0.0/24 dev back mtu 1280")?;
        stage.each(20, |_| Ok(()))?;
        let whole = server.counter("Ip", "ReasmOKs")?;
        ensure!(whole > 100, "{whole} packets came in fragments");
        let translated = stage.agent.counter(Counter::UnwrapTranslated)?;
        ensure!(translated >= 4, "{translated} connections are translated");
        stage.good()
    });
}

/// Makes many connections whose handshakes and headers get lost as well, with and without SYN cookies.
#[test]
fn short_connections_under_loss() {
    const WORKERS: usize = 40;
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        stage.lose(4.0)?;
        for cookies in ["0", "2"] {
            let server = &stage.gateway.server;
            server.set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
            let failed = Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                for _ in 0..WORKERS {
                    scope.spawn(|| {
                        for _ in 0..3 {
                            let done = stage.each(1, |_| Ok(()));
                            failed.lock().expect("no panic").extend(done.err());
                        }
                    });
                }
            });
            let failed = failed.into_inner()?;
            ensure!(failed.is_empty(), "syncookies {cookies}: {failed:?}");
        }
        stage.good()
    });
}

/// The server is too slow to accept: what waits is neither lost nor mixed up.
#[test]
fn full_queue() {
    // So many wait to be accepted before the queue is full, and further SYNs are not answered.
    const BACKLOG: i32 = 4;
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let server = &gateway.server;
        let listener = server.enter(|| -> io::Result<_> {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.bind(&any(PORT).into())?;
            socket.listen(BACKLOG)?;
            Ok(TcpListener::from(socket))
        })?;
        let agent = Agent::start(directory, on_server(directory, &gateway, &["8080"])?)?;
        for (cookies, family) in ["0", "1", "2"]
            .into_iter()
            .flat_map(|c| Family::ALL.map(|f| (c, f)))
        {
            server.set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
            let overflows = server.tcp_counter("ListenOverflows")?;
            let (client, headers) = Stage::headers(family);
            let mut headers = headers.iter().cycle();
            let target = (Gateway::server(family), PORT).into();
            let mut connections = Vec::new();
            for n in [3, 4] {
                let opened: Vec<_> = (0..n)
                    .map(|_| connect_with(&gateway.client, target, |_| Ok(())))
                    .collect::<Result<_>>()?;
                for mut stream in opened {
                    let n = connections.len();
                    let text = format!("connection {n}\n");
                    let header = headers.next().context("endless")?;
                    // Every other header is alone, with a moment of silence behind it.
                    if n % 2 == 0 {
                        stream.write_all(&[header, text.as_bytes()].concat())?;
                    } else {
                        stream.write_all(header)?;
                        std::thread::sleep(Duration::from_millis(20));
                        stream.write_all(text.as_bytes())?;
                    }
                    connections.push((stream, text));
                }
            }
            let overflows = server.tcp_counter("ListenOverflows")? - overflows;
            ensure!(overflows > 0, "the queue was never full");
            for _ in &connections {
                let (stream, accepted) = listener.accept()?;
                ensure!(canonical(accepted) == client, "{accepted}");
                std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
            for (stream, text) in &mut connections {
                let mut echo = vec![0; text.len()];
                stream
                    .read_exact(&mut echo)
                    .with_context(|| format!("{text:?}, {family:?}, syncookies {cookies}"))?;
                ensure!(echo == text.as_bytes(), "{echo:?} instead of {text:?}");
            }
        }
        none_refused(&agent)?;
        no_origins(&agent)
    });
}
