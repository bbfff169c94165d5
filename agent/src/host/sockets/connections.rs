//! Connected and connecting sockets.

use std::net::SocketAddr;

use anyhow::Result;
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetResponse, StateFlags, nlas::Nla};

use super::diag::{ask, between, canonical, cookie_of, dump, ends};
use crate::host::netns::Netns;

/// A connected or connecting socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketInfo {
    /// The socket's cookie.
    pub cookie: u64,
    /// Its inode, as `/proc/PID/fd` shows it; 0 while no process has accepted it.
    pub inode: u32,
    /// The user id that owns it.
    pub uid: u32,
    /// Its firewall mark.
    pub mark: u32,
    /// The socket's own end, with IPv4-mapped addresses as IPv4.
    pub local: SocketAddr,
    /// The other end, in the same form.
    pub remote: SocketAddr,
}

/// The bytes that a connection has carried so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The socket's cookie.
    pub cookie: u64,
    /// Bytes received; the other end's FIN counts as one byte.
    pub received: u64,
    /// Bytes that the other end acknowledged; this end's FIN counts as one byte.
    pub acked: u64,
}

/// The cookie of the connection between `local` and `remote`, if there is one. An IPv4-mapped address and the
/// IPv4 address are the same, whatever family the socket has.
pub fn cookie(netns: &Netns, local: SocketAddr, remote: SocketAddr) -> Result<Option<u64>> {
    netns.run(|| find(local, remote))
}

/// For each pair of a local and a remote end, whether there is a socket between them, be it one in SYN_RECV or
/// TIME_WAIT.
pub fn exist(netns: &Netns, connections: &[(SocketAddr, SocketAddr)]) -> Result<Vec<bool>> {
    let exists = |(local, remote): &(SocketAddr, SocketAddr)| Ok(find(*local, *remote)?.is_some());
    netns.run(|| connections.iter().map(exists).collect())
}

/// The cookie of the socket between two ends in the calling thread's namespace.
fn find(local: SocketAddr, remote: SocketAddr) -> Result<Option<u64>> {
    let wanted = (canonical(local), canonical(remote));
    let mut found = None;
    ask(between(local, remote), None, 0, |response| {
        // Without a connection the kernel answers with the listener that would take it.
        if ends(response) == wanted {
            found = Some(cookie_of(response));
        }
    })?;
    Ok(found)
}

/// Ends the connection between `local` and `remote` by a reset to both ends. Does nothing where there is none.
///
/// # Errors
///
/// When the kernel cannot do it (`CONFIG_INET_DIAG_DESTROY`), or the process lacks the capability.
pub fn abort(netns: &Netns, local: SocketAddr, remote: SocketAddr) -> Result<()> {
    // linux/sock_diag.h
    const SOCK_DESTROY: u16 = 21;
    // Without the cookie, the kernel would destroy the listener if the connection has just ended.
    let Some(cookie) = cookie(netns, local, remote)? else {
        return Ok(());
    };
    let mut request = between(local, remote);
    request.socket_id.cookie = cookie.to_ne_bytes();
    netns.run(|| ask(request, Some(SOCK_DESTROY), NLM_F_ACK, |_| {}))
}

/// Every connected or connecting socket of the namespace.
pub fn connections(netns: &Netns) -> Result<Vec<SocketInfo>> {
    let mut sockets = Vec::new();
    netns.run(|| {
        dump(connected(), 0, ExtensionFlags::empty(), |response| {
            let (local, remote) = ends(response);
            sockets.push(SocketInfo {
                cookie: cookie_of(response),
                inode: response.header.inode,
                uid: response.header.uid,
                mark: mark_of(response),
                local,
                remote,
            });
        })
    })?;
    Ok(sockets)
}

/// The mark of a socket, which the kernel tells whoever has CAP_NET_ADMIN.
fn mark_of(response: &InetResponse) -> u32 {
    let mark = |attribute: &Nla| match attribute {
        Nla::Mark(mark) => Some(*mark),
        _ => None,
    };
    response.nlas.iter().find_map(mark).unwrap_or_default()
}

/// The ends of every half-open connection of the namespace (SYN_RECV): its own, and the other one.
pub fn half_open(netns: &Netns) -> Result<Vec<(SocketAddr, SocketAddr)>> {
    let mut all = Vec::new();
    let (states, extensions) = (StateFlags::SYN_RECV, ExtensionFlags::empty());
    netns.run(|| dump(states, 0, extensions, |response| all.push(ends(response))))?;
    Ok(all)
}

/// The traffic of every connected or connecting socket of the namespace.
pub fn traffic(netns: &Netns) -> Result<Vec<Traffic>> {
    let mut traffic = Vec::new();
    netns.run(|| {
        dump(connected(), 0, ExtensionFlags::INFO, |response| {
            traffic.extend(
                response
                    .nlas
                    .iter()
                    .filter_map(|attribute| match attribute {
                        Nla::TcpInfo(info) => Some(Traffic {
                            cookie: cookie_of(response),
                            received: info.bytes_received,
                            acked: info.bytes_acked,
                        }),
                        _ => None,
                    }),
            );
        })
    })?;
    Ok(traffic)
}

/// The states of connected and connecting sockets. It leaves out the states without a process (SYN_RECV,
/// TIME_WAIT) and those without a peer (LISTEN, CLOSE).
fn connected() -> StateFlags {
    StateFlags::ESTABLISHED
        | StateFlags::SYN_SENT
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING
}
