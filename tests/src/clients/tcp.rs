//! Plain TCP connections, and their ends.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::netns::Netns;
use crate::servers::report::Seen;
use crate::wait::SOON;

/// Connects from `netns`, with Nagle's algorithm off.
pub fn connect(netns: &Netns, target: SocketAddr) -> Result<TcpStream> {
    connect_with(netns, target, |_| Ok(()))
}

/// Connects from `netns`, with Nagle's algorithm off, once `prepare` has set up the socket.
pub fn connect_with(
    netns: &Netns,
    target: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()> + Send,
) -> Result<TcpStream> {
    netns.enter(|| {
        let domain = Domain::for_address(target);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        prepare(&socket)?;
        let connected = socket.connect_timeout(&target.into(), SOON.here());
        SOON.await_io(format!("a connection to {target}"), connected)?;
        socket.set_read_timeout(Some(SOON.here()))?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    })
}

/// Reads the line by which [`crate::servers::report::Report`] tells whom it sees.
pub fn seen(stream: &mut TcpStream) -> Result<Seen> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        SOON.await_io("whom the application sees", stream.read_exact(&mut byte))?;
        line.extend(byte);
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Asserts that the other end reset the connection instead of closing it in order.
pub fn assert_reset(mut stream: TcpStream, what: &str) -> Result<()> {
    match stream.read(&mut [0; 64]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("{what}: {other:?} instead of a reset"),
    }
}

/// Asserts that a connection from `netns` is reset, perhaps even before `connect()` returns.
pub fn assert_refused(netns: &Netns, target: SocketAddr, what: &str) -> Result<()> {
    match connect(netns, target) {
        Ok(stream) => assert_reset(stream, what),
        Err(error) => match error.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == ErrorKind::ConnectionReset => Ok(()),
            _ => Err(error),
        },
    }
}
