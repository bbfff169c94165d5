//! TCP sockets of a network namespace, asked of the kernel through `sock_diag`.

use std::{io, net::SocketAddr};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use nix::libc::{ENOENT, ESTALE};

use crate::host::netns::Netns;

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerInfo {
    /// The socket's cookie.
    pub cookie: u64,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u8,
    /// What it is bound to.
    pub address: SocketAddr,
    /// An `AF_INET6` socket that takes no IPv4, for its option (`IPV6_V6ONLY`) or its address.
    pub v6only: bool,
    /// Whether it accepts connections to addresses that are not the host's (`IP_TRANSPARENT`);
    /// `None` before Linux 5.10, which doesn't say.
    pub transparent: Option<bool>,
}

/// A connected or connecting socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketInfo {
    /// The socket's cookie.
    pub cookie: u64,
    /// Its inode, as in `/proc/PID/fd`; 0 while no process has accepted it.
    pub inode: u32,
    /// The user it belongs to.
    pub uid: u32,
    /// The socket's own end. IPv4-mapped addresses are shown as IPv4.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// What has gone over a connection so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The socket's cookie.
    pub cookie: u64,
    /// Bytes received; the other end's FIN counts as one.
    pub received: u64,
    /// Bytes that the other end acknowledged; the own FIN counts as one.
    pub acked: u64,
}

/// The cookie of the connection between `local` and `remote`, if there is one. IPv4-mapped addresses
/// and IPv4 addresses are the same, whatever family the socket has.
pub fn cookie(netns: &Netns, local: SocketAddr, remote: SocketAddr) -> Result<Option<u64>> {
    let request = between(local, remote);
    let ends_wanted = (canonical(local), canonical(remote));
    let mut found = None;
    netns.run(|| {
        ask(request, None, 0, |response| {
            // Without a connection the kernel answers with the listener that would take it.
            if ends(response) == ends_wanted {
                found = Some(cookie_of(response));
            }
        })
    })?;
    Ok(found)
}

/// Whether there is a socket between each two ends, its own first, or one that is being made.
pub fn exist(netns: &Netns, connections: &[(SocketAddr, SocketAddr)]) -> Result<Vec<bool>> {
    let exists = |(local, remote): &(SocketAddr, SocketAddr)| {
        let wanted = (canonical(*local), canonical(*remote));
        let mut found = false;
        ask(between(*local, *remote), None, 0, |response| {
            // As above.
            found |= ends(response) == wanted;
        })?;
        Ok(found)
    };
    netns.run(|| connections.iter().map(exists).collect())
}

/// Ends the connection between `local` and `remote` with a reset to either end; none is no error.
///
/// # Errors
///
/// When the kernel cannot do it (`CONFIG_INET_DIAG_DESTROY`), or the process may not.
pub fn abort(netns: &Netns, local: SocketAddr, remote: SocketAddr) -> Result<()> {
    // linux/sock_diag.h
    const SOCK_DESTROY: u16 = 21;
    // Without the cookie, the kernel would take the listener for a connection that has gone.
    let Some(cookie) = cookie(netns, local, remote)? else {
        return Ok(());
    };
    let mut request = between(local, remote);
    request.socket_id.cookie = cookie.to_ne_bytes();
    netns.run(|| ask(request, Some(SOCK_DESTROY), NLM_F_ACK, |_| {}))
}

/// Asks for the connection between two ends.
fn between(local: SocketAddr, remote: SocketAddr) -> InetRequest {
    let interface_id = match local {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(local) => local.scope_id(),
    };
    let (local, remote) = (canonical(local), canonical(remote));
    InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_address: local.ip(),
            source_port: local.port(),
            destination_address: remote.ip(),
            destination_port: remote.port(),
            interface_id,
            // INET_DIAG_NOCOOKIE: any.
            cookie: [0xff; 8],
        },
    }
}

/// The sockets that listen on `port` (0: any), on any address.
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

/// Every connected or connecting socket.
pub fn connections(netns: &Netns) -> Result<Vec<SocketInfo>> {
    let mut sockets = Vec::new();
    netns.run(|| {
        dump(connected(), 0, ExtensionFlags::empty(), |response| {
            let (local, remote) = ends(response);
            sockets.push(SocketInfo {
                cookie: cookie_of(response),
                inode: response.header.inode,
                uid: response.header.uid,
                local,
                remote,
            });
        })
    })?;
    Ok(sockets)
}

/// The traffic of every connected or connecting socket.
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

fn connected() -> StateFlags {
    // What is left out has no process: requests (SYN_RECV), TIME_WAIT; or no peer: LISTEN, CLOSE.
    StateFlags::ESTABLISHED
        | StateFlags::SYN_SENT
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING
}

/// Asks for every socket of both families in one of `states`, with local `port` (0: any).
fn dump(
    states: StateFlags,
    port: u16,
    extensions: ExtensionFlags,
    mut each: impl FnMut(&InetResponse),
) -> Result<()> {
    for (family, any) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: extensions.clone(),
            states: states.clone(),
            socket_id: SocketId {
                source_port: port,
                ..any
            },
        };
        ask(request, None, NLM_F_DUMP, &mut each)?;
    }
    Ok(())
}

/// Sends `request` in the calling thread's namespace and hands each answer to `each`. No such socket
/// is no answer. `what` is the message's type unless it asks for sockets.
fn ask(
    request: InetRequest,
    what: Option<u16>,
    flags: u16,
    mut each: impl FnMut(&InetResponse),
) -> Result<()> {
    const CONTEXT: &str = "cannot ask the kernel for TCP sockets (sock_diag; CONFIG_INET_TCP_DIAG)";
    const NONE: i32 = -ENOENT;
    const OTHER: i32 = -ESTALE;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    message.header.message_type = what.unwrap_or(message.header.message_type);
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);

    let socket = Socket::new(NETLINK_SOCK_DIAG).context(CONTEXT)?;
    socket.send(&buffer, 0).context(CONTEXT)?;
    // The kernel fills messages of at most 32 KiB for a reader that has room for them.
    let mut buffer = Vec::with_capacity(32 * 1024);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0).context(CONTEXT)?;
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).context(CONTEXT)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    each(&response);
                    if flags & NLM_F_DUMP == 0 {
                        return Ok(());
                    }
                }
                NetlinkPayload::Done(_) => return Ok(()),
                // An acknowledgment is an error of number 0.
                NetlinkPayload::Error(e) if matches!(e.raw_code(), 0 | NONE | OTHER) => {
                    return Ok(());
                }
                NetlinkPayload::Error(e) => return Err(io::Error::from(e)).context(CONTEXT),
                other => bail!("{CONTEXT}: unexpected answer {other:?}"),
            }
            // Messages are aligned to 4 bytes.
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn cookie_of(response: &InetResponse) -> u64 {
    u64::from_ne_bytes(response.header.socket_id.cookie)
}

/// Local and remote end.
fn ends(response: &InetResponse) -> (SocketAddr, SocketAddr) {
    let id = &response.header.socket_id;
    (
        SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
    )
}

/// With IPv4-mapped addresses as IPv4, and no IPv6 scope: the kernel's answers have none.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The transparent bit of `struct inet_diag_sockopt`.
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

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
    };

    use nix::{getsockopt_impl, libc, sockopt_impl, sys::socket::getsockopt};

    use super::*;

    sockopt_impl!(
        /// SO_COOKIE.
        Cookie, GetOnly, libc::SOL_SOCKET, libc::SO_COOKIE, u64
    );

    fn true_cookie(socket: &impl AsFd) -> u64 {
        getsockopt(&socket.as_fd(), Cookie).unwrap()
    }

    /// Connects to a listener on `bind` by its port on `host` and checks every answer.
    fn check(bind: &str, host: &str) {
        let netns = Netns::current().unwrap();
        let listener = TcpListener::bind((bind, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((host, port)).unwrap();
        let (server, remote) = listener.accept().unwrap();
        let local = server.local_addr().unwrap();

        assert_eq!(
            cookie(&netns, local, remote).unwrap(),
            Some(true_cookie(&server))
        );
        assert_eq!(
            cookie(&netns, remote, local).unwrap(),
            Some(true_cookie(&client))
        );
        // The listener is not taken for a connection.
        let stranger = SocketAddr::new(remote.ip(), 1);
        assert_eq!(cookie(&netns, local, stranger).unwrap(), None);

        let found = listeners(&netns, port).unwrap();
        let [found] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(found.cookie, true_cookie(&listener));
        assert_eq!(found.address, listener.local_addr().unwrap());
        assert_eq!(
            (found.v6only, found.transparent),
            (bind == "::1", Some(false))
        );

        let all = connections(&netns).unwrap();
        let info = all
            .iter()
            .find(|s| s.cookie == true_cookie(&server))
            .unwrap();
        assert_eq!(
            (info.local, info.remote),
            (canonical(local), canonical(remote))
        );
        assert!(info.inode != 0);
        assert!(all.iter().all(|s| s.cookie != true_cookie(&listener)));

        (&client).write_all(b"question").unwrap();
        (&server).read_exact(&mut [0; 8]).unwrap();
        let all = traffic(&netns).unwrap();
        let expected = Traffic {
            cookie: true_cookie(&server),
            received: 8,
            acked: 0,
        };
        assert!(all.contains(&expected), "{all:?}");
    }

    #[test]
    fn ipv4_sockets_are_found() {
        check("127.0.0.1", "127.0.0.1");
    }

    #[test]
    fn ipv6_sockets_are_found() {
        check("::1", "::1");
    }

    #[test]
    fn ipv4_connections_of_dual_stack_sockets_are_found() {
        check("::", "127.0.0.1");
    }
}
