//! Clients that use TCP Fast Open (RFC 7413).

use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use nix::libc::MSG_FASTOPEN;
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::listener::set_transparent;
use crate::host::netns::Netns;
use crate::wait::SOON;

/// Whether a server wants to see a cookie.
pub enum Cookies {
    /// It does.
    Wanted,
    /// It takes data on a SYN from everybody.
    Unasked,
}

/// Has clients and all listeners of a namespace use Fast Open (ip-sysctl.rst, `tcp_fastopen`).
pub fn allow(netns: &Netns, cookies: Cookies) -> Result<()> {
    const BOTH: u32 = 0x1 | 0x2;
    const ALL_LISTENERS: u32 = 0x400;
    let without = match cookies {
        Cookies::Wanted => 0,
        Cookies::Unasked => 0x4 | 0x200,
    };
    let value = BOTH | ALL_LISTENERS | without;
    netns.set_sysctl("net/ipv4/tcp_fastopen", &value.to_string())
}

/// Connects with `data` on the SYN. A `source` that is not the sender's own makes it a proxy's connection.
pub fn connect(
    netns: &Netns,
    source: Option<SocketAddr>,
    target: SocketAddr,
    data: &[u8],
) -> Result<TcpStream> {
    netns.enter(|| {
        let domain = Domain::for_address(target);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_write_timeout(Some(SOON.here()))?;
        socket.set_read_timeout(Some(SOON.here()))?;
        if let Some(source) = source {
            set_transparent(&socket, domain)?;
            socket.bind(&source.into())?;
        }
        let sent = socket.send_to_with_flags(data, &target.into(), MSG_FASTOPEN)?;
        ensure!(sent == data.len(), "{sent} bytes were sent");
        Ok(socket.into())
    })
}

/// How many connections a SYN alone has opened in this namespace.
pub fn opened(pod: &Netns) -> Result<u64> {
    pod.tcp_counter("TCPFastOpenPassive")
}
