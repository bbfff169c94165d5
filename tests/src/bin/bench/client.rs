//! The clients of a load.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agent_common::proxy::{Endpoints, Peer, write};
use anyhow::{Context, Result};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use tests::clients::raw::{LINUX, Raw};
use tests::host::listener::set_transparent;

use crate::application::{
    ANSWER, CALLS, CHUNK, DOWNLOAD, NAME, PATIENCE, REQUEST, UPLOAD, WHO, decode,
};
use crate::pod::Pod;
use crate::progress::{Progress, WARM_UP};

/// Connections a second of [`crate::work::Work::Paced`], well below what the slowest proxy here can do, and how many
/// clients share them.
pub(crate) const RATE: u32 = 2000;

pub(crate) const PACERS: u16 = 16;

/// Connects again and again, from each of the client's addresses in turn.
pub(crate) fn connect(pod: &Pod, client: u16, clients: u16, progress: &Progress) -> Result<()> {
    for n in (client.into()..).step_by(clients.into()) {
        if progress.is_done() {
            break;
        }
        let count = match ask(pod, n) {
            Ok((own, seen)) => {
                progress.add(1);
                if pod.variant.is_right(pod.family.client(n), own.port(), seen) {
                    continue;
                }
                if seen.ip().is_loopback() || seen.ip() == own.ip() {
                    &progress.unknown
                } else {
                    &progress.wrong
                }
            }
            Err(_) => &progress.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// One short connection, closed by the client: its own address, and whom the application saw.
pub(crate) fn ask(pod: &Pod, n: usize) -> Result<(SocketAddr, SocketAddr)> {
    let mut stream = open(pod, n, WHO)?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer)?;
    Ok((stream.local_addr()?, decode(answer)))
}

/// Connects at a fixed rate, whatever the answers take.
pub(crate) fn paced(pod: &Pod, client: u16, progress: &Progress) -> Result<()> {
    let interval = Duration::from_secs(1) * PACERS.into() / RATE;
    // What came before may still be on its way.
    let warm = Instant::now() + WARM_UP;
    let mut due = Instant::now() + interval * client.into() / PACERS.into();
    let mut took = Vec::new();
    for n in (client.into()..).step_by(PACERS.into()) {
        if progress.is_done() {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let answered = ask(pod, n);
        if due >= warm {
            took.push(due.elapsed());
        }
        due += interval;
        match answered {
            Ok(_) => progress.add(1),
            Err(_) => drop(progress.failed.fetch_add(1, Ordering::Relaxed)),
        }
    }
    progress.took.lock().expect("no client panics").extend(took);
    Ok(())
}

pub(crate) fn upload(pod: &Pod, n: usize, progress: &Progress) -> Result<()> {
    let mut stream = open(pod, n, UPLOAD).context("connect")?;
    let chunk = vec![0; CHUNK];
    while !progress.is_done() {
        progress.add(stream.write(&chunk)? as u64);
    }
    Ok(())
}

pub(crate) fn download(pod: &Pod, progress: &Progress) -> Result<()> {
    let mut stream = open(pod, 0, DOWNLOAD).context("connect")?;
    let mut chunk = vec![0; CHUNK];
    while !progress.is_done() {
        progress.add(stream.read(&mut chunk)? as u64);
    }
    Ok(())
}

pub(crate) fn getpeername(pod: &Pod, progress: &Progress) -> Result<()> {
    let mut stream = open(pod, 0, NAME).context("connect")?;
    let mut told = [0; 16];
    while !progress.is_done() {
        progress.add(stream.read(&mut told)? as u64 * u64::from(CALLS));
    }
    Ok(())
}

/// Sends SYNs from an address that answers nothing.
pub(crate) fn syns(pod: &Pod, progress: &Progress) -> Result<()> {
    let raw = Raw::new(pod.client())?;
    let source = pod.family.balancer(1);
    for n in 0.. {
        if progress.is_done() {
            break;
        }
        let port = 1024 + (n % 60_000) as u16;
        raw.syn((source, port).into(), pod.target(0), n, &LINUX)?;
        progress.add(1);
    }
    Ok(())
}

/// Connects from the client's n-th address and sends a request.
pub(crate) fn open(pod: &Pod, n: usize, kind: u8) -> Result<TcpStream> {
    let client = pod.family.client(n);
    let socket = if pod.variant.is_told() {
        // A load balancer, with an address of its own.
        Socket::new(Domain::for_address(pod.target(n)), Type::STREAM, None)?
    } else {
        bind(client)?
    };
    socket.set_read_timeout(Some(PATIENCE.here()))?;
    // Limits `connect()` as well.
    socket.set_write_timeout(Some(PATIENCE.here()))?;
    socket.connect(&pod.target(n).into())?;
    let mut stream = TcpStream::from(socket);
    let mut bytes = Vec::new();
    if pod.variant.is_told() {
        // It names the client, with the port of this connection.
        let ends = Endpoints {
            source: SocketAddr::new(client, stream.local_addr()?.port()).into(),
            destination: stream.peer_addr()?.into(),
        };
        write::v2(&Peer::Proxied(ends), [].into_iter(), false, &mut bytes).expect("short");
    }
    bytes.extend([kind; REQUEST]);
    stream.write_all(&bytes)?;
    Ok(stream)
}

/// A socket with this address, which truepeer takes for a client's when it trusts this program. The kernel chooses the
/// port when it knows the destination, so that each destination has all ports.
pub(crate) fn bind(address: IpAddr) -> Result<Socket> {
    let address = SocketAddr::new(address, 0);
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    set_transparent(&socket, domain)?;
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
