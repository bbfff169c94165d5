//! Listening sockets.

use std::net::SocketAddr;

use anyhow::Result;
use netlink_packet_core::Nla as _;
use netlink_packet_sock_diag::inet::{ExtensionFlags, StateFlags, nlas::Nla};

use super::diag::{cookie_of, dump};
use crate::host::netns::Netns;

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerInfo {
    /// The socket's cookie.
    pub cookie: u64,
    /// Its inode, as `/proc/PID/fd` shows it.
    pub inode: u32,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u8,
    /// The address that it is bound to.
    pub address: SocketAddr,
    /// Whether it is an `AF_INET6` socket that takes no IPv4, by option (`IPV6_V6ONLY`) or by address.
    pub v6only: bool,
    /// Whether it accepts connections to addresses that the host does not have (`IP_TRANSPARENT`);
    /// `None` before Linux 5.10, which does not tell.
    pub transparent: Option<bool>,
}

/// The sockets that listen on `port` (0: any port), on any address.
pub fn listeners(netns: &Netns, port: u16) -> Result<Vec<ListenerInfo>> {
    let mut listeners = Vec::new();
    netns.run(|| {
        dump(
            StateFlags::LISTEN,
            port,
            ExtensionFlags::empty(),
            |response| {
                let header = &response.header;
                listeners.push(ListenerInfo {
                    cookie: cookie_of(response),
                    inode: header.inode,
                    family: header.family,
                    address: SocketAddr::new(
                        header.socket_id.source_address,
                        header.socket_id.source_port,
                    ),
                    v6only: response.nlas.contains(&Nla::SkV6Only(true)),
                    transparent: response.nlas.iter().find_map(transparent),
                });
            },
        )
    })?;
    Ok(listeners)
}

/// The bit for `IP_TRANSPARENT` in `struct inet_diag_sockopt`.
fn transparent(attribute: &Nla) -> Option<bool> {
    const INET_DIAG_SOCKOPT: u16 = 22;
    let Nla::Other(other) = attribute else {
        return None;
    };
    if other.kind() != INET_DIAG_SOCKOPT || other.value_len() == 0 {
        return None;
    }
    let mut value = vec![0; other.value_len()];
    other.emit_value(&mut value);
    Some(value[0] & (1 << 5) != 0)
}
