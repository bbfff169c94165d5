//! Multipath TCP (RFC 8684): an application that listens by it, as Go's do by default, is told the client of a connection
//! over TCP. Of one over MPTCP it sees whom it would see without truepeer, and no byte is lost.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tests::agent::{Agent, Config, Steer, Trust, Unwrap, believing, telling};
use tests::clients::exchange::{serve, with_server};
use tests::clients::tcp::seen;
use tests::host::listener::canonical;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::connect_from;
use tests::proxies::proxy_header::v2;
use tests::servers::report::Seen;
use tests::topology::{Family, Sidecar};
use tests::wait::SOON;

use crate::stage::{HEADER, REPORT, client};

/// A socket that speaks MPTCP, in the calling thread's namespace.
fn socket(address: SocketAddr) -> Result<Socket> {
    let domain = Domain::for_address(address);
    Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP)).context("no MPTCP in this kernel")
}

/// Listens by MPTCP and serves every connection on a thread, until the process ends.
fn listen(
    netns: &Netns,
    port: u16,
    serve: fn(TcpStream, SocketAddr) -> std::io::Result<()>,
) -> Result<()> {
    let listener = netns.enter(|| -> Result<_> {
        let socket = socket(any(port))?;
        socket.bind(&any(port).into())?;
        socket.listen(64)?;
        Ok(TcpListener::from(socket))
    })?;
    std::thread::spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            std::thread::spawn(move || serve(stream, peer));
        }
    });
    Ok(())
}

fn tell(mut stream: TcpStream, accepted: SocketAddr) -> std::io::Result<()> {
    let seen = Seen {
        accepted: canonical(accepted),
        peername: canonical(stream.peer_addr()?),
        local: canonical(stream.local_addr()?),
    };
    stream.write_all(seen.line()?.as_bytes())
}

/// Connects by MPTCP; `source` is one of the sender's own addresses, if it matters.
fn connect(netns: &Netns, source: Option<SocketAddr>, target: SocketAddr) -> Result<TcpStream> {
    netns.enter(|| {
        let socket = socket(target)?;
        if let Some(source) = source {
            socket.bind(&source.into())?;
        }
        SOON.await_io(
            "a connection",
            socket.connect_timeout(&target.into(), SOON.here()),
        )?;
        Ok(socket.into())
    })
}

/// How many of the pod's connections became MPTCP's.
fn established(pod: &Netns) -> Result<u64> {
    pod.counter("MPTcpExt", "MPCapableACKRX")
}

#[test]
fn steered_to_a_listener_that_speaks_it() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        listen(&sidecar.pod, REPORT, tell)?;
        let steer = Steer::new("in", &sidecar.pod, &["9000-9099"], REPORT).on(Sidecar::INTERFACE);
        let agent = Agent::start(directory, Config::new(directory, [steer])?)?;
        for family in Family::ALL {
            let source = client(family);
            let target = (Sidecar::address(family), 9042).into();
            let mut stream = connect(&sidecar.client, Some(source), target)?;
            let seen = seen(&mut stream)?;
            ensure!(seen.accepted == source && seen.local == target, "{seen:?}");
        }
        ensure!(established(&sidecar.pod)? == 2, "MPTCP was not spoken");
        ensure!(agent.counter(Counter::Steered)? == 2, "not steered");
        Ok(())
    });
}

#[test]
fn toa_to_a_listener_that_speaks_it() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        listen(&sidecar.pod, REPORT, tell)?;
        let _telling = telling(directory, Sidecar::networks())?;
        let _believing = believing(directory, Sidecar::networks())?;
        for family in Family::ALL {
            let target = (Sidecar::address(family), REPORT).into();
            // The sender speaks TCP, the listener both.
            let sender = &sidecar.client;
            let mut stream = sender.enter(|| connect_from(client(family), target, 0))?;
            let seen = seen(&mut stream)?;
            ensure!(
                seen.accepted == seen.peername && seen.accepted == client(family),
                "{} was seen as {seen:?}",
                client(family)
            );
        }
        Ok(())
    });
}

#[test]
fn headers_of_a_sender_that_speaks_it() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        listen(&sidecar.pod, HEADER, serve)?;
        let mut config = Config::new(directory, [])?;
        config.trust.extend(Trust::sources(Sidecar::networks()));
        let unwrap = Unwrap::new(&sidecar.pod, Sidecar::INTERFACE, &["8443"]);
        config.unwrap.push(unwrap);
        let _agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let target = (Sidecar::address(family), HEADER).into();
            let stream = connect(&sidecar.client, None, target)?;
            let sender = stream.local_addr()?;
            let header = v2(client(family), target);
            let seen = with_server(stream, &header, 20).with_context(|| format!("to {target}"))?;
            // The socket that is accepted is not TCP's, of which alone the origin is known.
            ensure!(seen == sender, "{sender} was seen as {seen}");
        }
        Ok(())
    });
}
