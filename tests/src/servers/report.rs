//! An application that tells each client whom it sees.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::host::listener::{Listener, canonical};
use crate::host::netns::Netns;

/// What the application sees of one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// What `accept()` returned.
    pub accepted: SocketAddr,
    /// What `getpeername()` returned.
    pub peername: SocketAddr,
    /// What `getsockname()` returned.
    pub local: SocketAddr,
}

impl Seen {
    /// What [`Report`] sends.
    pub fn line(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

/// A TCP server that sends one line of JSON, a [`Seen`], and then echoes until the client is done.
pub struct Report(#[expect(dead_code, reason = "stops on drop")] Listener);

impl Report {
    /// Serves `address` inside `netns`. `[::]` is a dual-stack socket, as Go, Java and Node.js open it.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        Listener::start(netns, address, false, tell).map(Self)
    }

    /// Serves `address` in the calling thread's namespace.
    pub fn start_here(address: SocketAddr) -> Result<Self> {
        Listener::start_here(address, false, tell).map(Self)
    }
}

/// Tells the client what `accept()` returned and what the other calls do, and then echoes.
pub(crate) fn tell(mut stream: TcpStream, accepted: SocketAddr) -> io::Result<()> {
    let seen = Seen {
        accepted: canonical(accepted),
        peername: canonical(stream.peer_addr()?),
        local: canonical(stream.local_addr()?),
    };
    stream.write_all(seen.line()?.as_bytes())?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}
