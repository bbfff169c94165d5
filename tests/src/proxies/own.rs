//! A small proxy of our own: no configuration, nothing to install.

use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};

use anyhow::Result;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::host::listener::{Listener, canonical, set_transparent};
use crate::host::netns::Netns;
use crate::proxies::proxy_header::v2_with_checksum;
use crate::wait::{SOON, when_a_port_is_free};

const NO_MARK: u32 = 0;

/// A TCP proxy, stopped on drop; connections in progress go on.
pub struct Proxy(#[expect(dead_code, reason = "stops on drop")] Listener);

impl Proxy {
    /// An ordinary proxy: the application sees the proxy's address.
    pub fn plain(netns: &Netns, listen: SocketAddr, upstream: SocketAddr) -> Result<Self> {
        Listener::start(netns, listen, false, move |client, _| {
            relay(&client, &TcpStream::connect(upstream)?)
        })
        .map(Self)
    }

    /// An ordinary proxy that begins each of its connections with a PROXY header.
    pub fn telling(netns: &Netns, listen: SocketAddr, upstream: SocketAddr) -> Result<Self> {
        Listener::start(netns, listen, false, move |client, peer| {
            let target = canonical(client.local_addr()?);
            let mut server = TcpStream::connect(upstream)?;
            server.write_all(&v2_with_checksum(canonical(peer), target))?;
            relay(&client, &server)
        })
        .map(Self)
    }

    /// A sidecar's transparent proxy: it connects to where the client wanted to go, with the client's
    /// address and `mark` on its packets.
    ///
    /// The port is its own. Its application is in the same namespace, where a connection from the
    /// client's port would have the very addresses of the client's connection to the proxy.
    pub fn sidecar(netns: &Netns, listen: SocketAddr, mark: u32) -> Result<Self> {
        netns.enter(|| Self::sidecar_here(listen, mark))
    }

    /// A sidecar's transparent proxy in the calling thread's namespace.
    pub fn sidecar_here(listen: SocketAddr, mark: u32) -> Result<Self> {
        Self::transparent(listen, move |client, destination| {
            connect_from(SocketAddr::new(client.ip(), 0), destination, mark)
        })
    }

    /// A gateway's transparent proxy: it connects to where the client wanted to go, with the client's
    /// address and port.
    pub fn gateway(netns: &Netns, listen: SocketAddr) -> Result<Self> {
        netns.enter(|| Self::transparent(listen, connect_as))
    }

    /// A proxy in the calling thread's namespace that binds to the client's address and port, which a
    /// trusted one may without spoofing anything.
    pub fn binding(listen: SocketAddr, upstream: SocketAddr) -> Result<Self> {
        Listener::start_here(listen, false, move |client, peer| {
            relay(
                &client,
                &connect_when_a_port_is_free(canonical(peer), upstream)?,
            )
        })
        .map(Self)
    }

    /// A proxy in the calling thread's namespace that iptables redirect connections to. It connects to
    /// where the client wanted to go, from what `source` makes of the client's address.
    pub fn redirected(listen: SocketAddr, source: fn(SocketAddr) -> SocketAddr) -> Result<Self> {
        Listener::start_here(listen, false, move |client, peer| {
            let destination = original_dst(&client, peer)?;
            refuse_own(destination, listen)?;
            let source = source(canonical(peer));
            relay(&client, &connect_when_a_port_is_free(source, destination)?)
        })
        .map(Self)
    }

    fn transparent<F>(listen: SocketAddr, connect: F) -> Result<Self>
    where
        F: Fn(SocketAddr, SocketAddr) -> io::Result<TcpStream> + Clone + Send + 'static,
    {
        Listener::start_here(listen, true, move |client, peer| {
            // Nothing was translated: the connection's own address is its original destination.
            let destination = canonical(client.local_addr()?);
            refuse_own(destination, listen)?;
            relay(&client, &connect(canonical(peer), destination)?)
        })
        .map(Self)
    }
}

fn refuse_own(destination: SocketAddr, listen: SocketAddr) -> io::Result<()> {
    if destination.port() == listen.port() {
        return Err(io::Error::other("a connection to the proxy itself"));
    }
    Ok(())
}

/// The original destination of a connection that was accepted from `peer`.
pub fn original_dst(client: &TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(client);
    let answer = if canonical(peer).is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    answer?
        .as_socket()
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Connects with the client's address and port, or with another port when the connection between
/// these two already exists.
fn connect_as(client: SocketAddr, destination: SocketAddr) -> io::Result<TcpStream> {
    match connect_from(client, destination, NO_MARK) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
            ) =>
        {
            connect_from(SocketAddr::new(client.ip(), 0), destination, NO_MARK)
        }
        result => result,
    }
}

/// With few source ports, the next may be free only when the last connection from it is a second old.
fn connect_when_a_port_is_free(
    client: SocketAddr,
    destination: SocketAddr,
) -> io::Result<TcpStream> {
    when_a_port_is_free(|| connect_from(client, destination, NO_MARK))
}

/// Connects in the name of `source` from the calling thread's namespace.
pub fn connect_from(
    source: SocketAddr,
    destination: SocketAddr,
    mark: u32,
) -> io::Result<TcpStream> {
    let domain = Domain::for_address(destination);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    set_transparent(&socket, domain)?;
    socket.set_reuse_address(true)?;
    // The kernel chooses a port, if it may, for this destination only.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.set_mark(mark)?;
    socket.bind(&of_family(source, destination).into())?;
    socket.connect_timeout(&destination.into(), SOON.here())?;
    Ok(socket.into())
}

/// `address` as a socket towards `destination` takes it: perhaps an IPv4 address in mapped form.
fn of_family(address: SocketAddr, destination: SocketAddr) -> SocketAddr {
    match (address.ip(), destination.is_ipv6()) {
        (IpAddr::V4(ip), true) => (ip.to_ipv6_mapped(), address.port()).into(),
        _ => address,
    }
}

/// Copies in both directions until both sides have finished.
pub fn relay(a: &TcpStream, b: &TcpStream) -> io::Result<()> {
    std::thread::scope(|scope| {
        scope.spawn(|| copy(b, a));
        copy(a, b)
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to);
    // A broken connection ends in both directions, a finished one only in this direction.
    let how = if copied.is_err() {
        Shutdown::Both
    } else {
        Shutdown::Write
    };
    let _ = to.shutdown(how);
    copied.map(drop)
}
