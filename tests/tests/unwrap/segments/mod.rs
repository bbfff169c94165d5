//! PROXY headers segment by segment: lost, repeated, out of order, and connections that end before them.

mod ends;
mod stage;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use agent_common::Counter;
use anyhow::{Result, ensure};
use socket2::{Domain, Socket, Type};
use tests::agent::records::{no_origins, none_refused};
use tests::clients::raw::{Connection, LINUX};
use tests::host::listener::{Listener, canonical};
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::{v2, with_tlv};
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use self::stage::{Case, PORT, Stage};

/// The port of a server that is the first to close.
const GREETER: u16 = 8081;

#[test]
fn syn_repeated() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        stage.each(|case| {
            for _ in 0..3 {
                stage
                    .raw
                    .syn(case.source, case.target, case.isn(), case.options)?;
            }
            let mut connection = case.connect()?;
            connection.send(&case.with(b"ping\n"))?;
            // With SYN cookies the kernel takes the payload only when it comes again.
            repeat(&connection, case, b"ping\n")?;
            case.answered(&mut connection, "ping\n")?;
            connection.reset()
        })
    });
}

/// An old duplicate of a former SYN takes nothing from the handshake under way.
#[test]
fn old_syn_before_the_header() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        for (number, family) in (20..).zip(Family::ALL) {
            let client = SocketAddr::new(family.client(6), 4711);
            let target = SocketAddr::new(Sidecar::address(family), PORT);
            for header in [v2(client, target), with_tlv(client, target, Some(40))] {
                let case = Case {
                    raw: &stage.raw,
                    number,
                    client,
                    source: SocketAddr::new(family.balancer(1), 40_000 + header.len() as u16),
                    target,
                    options: &LINUX,
                    header: &header,
                };
                let mut connection = case.connect()?;
                let old = case.isn().wrapping_sub(1 << 24);
                stage.raw.syn(case.source, target, old, &LINUX)?;
                connection.send(&case.with(b"ping\n"))?;
                case.answered(&mut connection, "ping\n")?;
                connection.reset()?;
            }
        }
        none_refused(&stage.agent)?;
        no_origins(&stage.agent)
    });
}

/// Sends the first segment once more.
fn repeat(connection: &Connection<'_>, case: &Case<'_>, payload: &[u8]) -> Result<()> {
    let sent = case.with(payload);
    let back = (sent.len() as u32).wrapping_neg();
    connection.send_ahead(back as usize, &sent)
}

#[test]
fn first_segment_repeated() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        stage.each(|case| {
            let mut connection = case.connect()?;
            connection.send(&case.with(b"ping\n"))?;
            for _ in 0..3 {
                repeat(&connection, case, b"ping\n")?;
            }
            case.answered(&mut connection, "ping\n")?;
            repeat(&connection, case, b"ping\n")?;
            connection.send(b"pong\n")?;
            ensure!(connection.receive()? == "pong\n", "no echo");
            connection.reset()
        })
    });
}

#[test]
fn second_segment_before_the_first() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        stage.each(|case| {
            let mut connection = case.connect()?;
            connection.send_ahead(case.header.len(), b"ping\n")?;
            connection.send(case.header)?;
            case.answered(&mut connection, "")?;
            connection.send_ahead(5, b"pong\n")?;
            connection.send(b"ping\n")?;
            let mut echo = connection.receive()?;
            while echo.len() < 10 {
                echo += &connection.receive()?;
            }
            ensure!(echo == "ping\npong\n", "{echo:?}");
            // This moves the sequence number behind what was sent ahead.
            connection.send(b"pong\n")?;
            connection.reset()
        })
    });
}

#[test]
fn ended_before_the_header() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let mut finished = 0;
        stage.each(|case| {
            // Another port, lest what follows counts as refused.
            case.connect()?.reset()?;
            let mut connection = Case {
                number: case.number + 1,
                ..*case
            }
            .connect()?;
            connection.send(case.header)?;
            case.answered(&mut connection, "")?;
            finished += 1;
            connection.reset()
        })?;
        let learnt = stage.agent.counter(Counter::LearntProxy)?;
        ensure!(learnt == finished, "{learnt} instead of {finished}");
        Ok(())
    });
}

#[test]
fn half_open() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        for port in 1000..1200 {
            for family in Family::ALL {
                let source = SocketAddr::new(family.balancer(1), port);
                let target = SocketAddr::new(Sidecar::address(family), PORT);
                stage.raw.syn(source, target, port.into(), &LINUX)?;
            }
        }
        stage.each(|case| {
            let mut connection = case.connect()?;
            connection.send(case.header)?;
            case.answered(&mut connection, "")?;
            connection.reset()
        })
    });
}

/// A server whose queue is full when a header comes that has another length than is expected.
struct Full<'a> {
    listener: TcpListener,
    /// The connection in its queue.
    first: Connection<'a>,
    client: SocketAddr,
    header: Vec<u8>,
    late: Connection<'a>,
}

impl<'a> Full<'a> {
    fn new(stage: &'a Stage, family: Family) -> Result<Self> {
        let target = SocketAddr::new(Sidecar::address(family), GREETER);
        let listener = stage.sidecar.pod.enter(|| {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&target.into())?;
            // The queue has room for one connection.
            socket.listen(0)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let client = SocketAddr::new(family.client(6), 4711);
        let source = |port| SocketAddr::new(family.balancer(1), port);
        let mut late = stage.raw.connect(source(2000), target, 1, &LINUX)?;
        let mut first = stage.raw.connect(source(2001), target, 1, &LINUX)?;
        first.send(&v2(client, target))?;
        let header = with_tlv(client, target, Some(40));
        late.send(&header)?;
        let full = Self {
            listener: listener.into(),
            first,
            client,
            header,
            late,
        };
        full.has_entries(stage, 1)?;
        Ok(full)
    }

    /// Waits until so many connections are translated.
    fn has_entries(&self, stage: &Stage, wanted: u64) -> Result<()> {
        let what = format!("{wanted} connections are translated");
        eventually(&what, || {
            Ok((stage.agent.entries("TRANSLATED")? == wanted).then_some(()))
        })
    }
}

/// The server gives the connection up, and nobody resets it: what was known of it is forgotten.
#[test]
fn never_established() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let pod = &stage.sidecar.pod;
        pod.set_sysctl("net/ipv4/tcp_synack_retries", "0")?;
        for family in Family::ALL {
            Full::new(&stage, family)?.has_entries(&stage, 0)?;
        }
        none_refused(&stage.agent)
    });
}

/// A reset that the server does not take for the sender's: the header is read once more, and the connection
/// translated.
#[test]
fn ignored_reset() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        for family in Family::ALL {
            let mut full = Full::new(&stage, family)?;
            full.late.reset_ahead(1 << 30)?;
            full.has_entries(&stage, 0)?;
            full.first.reset_ahead(0)?;
            drop(full.listener.accept()?);
            let again = [&full.header, &b"ping\n"[..]].concat();
            let back = (full.header.len() as u32).wrapping_neg();
            full.late.send_ahead(back as usize, &again)?;
            let (mut accepted, client) = full.listener.accept()?;
            ensure!(canonical(client) == full.client, "{client}");
            let mut ping = [0; 5];
            accepted.read_exact(&mut ping)?;
            ensure!(&ping == b"ping\n", "{ping:?}");
            accepted.write_all(b"pong\n")?;
            ensure!(full.late.receive()? == "pong\n", "no answer");
            full.late.reset_ahead(ping.len() as u32)?;
            full.has_entries(&stage, 0)?;
        }
        none_refused(&stage.agent)?;
        no_origins(&stage.agent)
    });
}

/// A server that tells its client whom it sees, and is the first to close.
fn greeter(stage: &Stage) -> Result<Listener> {
    let greet = |mut stream: TcpStream, client: SocketAddr| {
        stream.write_all(canonical(client).to_string().as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    };
    Listener::start(&stage.sidecar.pod, any(GREETER), false, greet)
}

/// The server closes first, and its socket waits while the port is used again.
#[test]
fn port_used_again_while_the_server_waits() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let _greeter = greeter(&stage)?;
        stage.each(|case| {
            let target = SocketAddr::new(case.target.ip(), GREETER);
            let case = Case { target, ..*case };
            let mut connection = case.connect()?;
            connection.send(case.header)?;
            let greeting = connection.receive()?;
            ensure!(greeting == case.client.to_string(), "{greeting:?}");
            connection.finish()
        })
    });
}
