//! Requests to `sock_diag` and its answers.

use std::{io, net::SocketAddr};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use nix::libc::{ENOENT, ESTALE};

/// The request for the connection between two ends.
pub(super) fn between(local: SocketAddr, remote: SocketAddr) -> InetRequest {
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
            // INET_DIAG_NOCOOKIE: any cookie.
            cookie: [0xff; 8],
        },
    }
}

/// Hands each socket in one of `states` with this local `port` (0: any port) to `each`, in the calling thread's
/// namespace. `extensions` are the attributes to ask for.
pub(super) fn dump(
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

/// Sends `request` in the calling thread's namespace and hands each answer to `each`; there is none where no socket
/// matches. `message_type` replaces the type of a message that asks for sockets.
pub(super) fn ask(
    request: InetRequest,
    message_type: Option<u16>,
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
    message.header.message_type = message_type.unwrap_or(message.header.message_type);
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);

    let is_dump = flags & NLM_F_DUMP == NLM_F_DUMP;
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
                    if !is_dump {
                        return Ok(());
                    }
                }
                // A list that breaks off ends with the error's number.
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code)).context(CONTEXT);
                }
                NetlinkPayload::Done(_) => return Ok(()),
                // An acknowledgement is an error with the number 0.
                NetlinkPayload::Error(e) if e.raw_code() == 0 => return Ok(()),
                // A list without sockets is no error: there, these mean a kernel without `sock_diag`.
                NetlinkPayload::Error(e) if !is_dump && matches!(e.raw_code(), NONE | OTHER) => {
                    return Ok(());
                }
                NetlinkPayload::Error(e) => return Err(io::Error::from(e)).context(CONTEXT),
                other => bail!("{CONTEXT}: unexpected answer {other:?}"),
            }
            // The kernel aligns messages to 4 bytes.
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

pub(super) fn cookie_of(response: &InetResponse) -> u64 {
    u64::from_ne_bytes(response.header.socket_id.cookie)
}

/// The local and the remote end, in canonical form.
pub(super) fn ends(response: &InetResponse) -> (SocketAddr, SocketAddr) {
    let id = &response.header.socket_id;
    (
        SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
    )
}

/// The address with IPv4-mapped addresses as IPv4, and without the IPv6 scope, which the kernel's answers lack.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_the_kernel_cannot_make_is_not_an_empty_one() {
        let request = InetRequest {
            family: AF_INET,
            // Reserved for experiments: no kernel lists its sockets.
            protocol: 253,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId::new_v4(),
        };
        let error = ask(request, None, NLM_F_DUMP, |_| {}).unwrap_err();
        assert!(error.to_string().contains("sock_diag"), "{error:#}");
    }
}
