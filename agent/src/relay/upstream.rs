//! The other side of a relayed connection.

use std::{io, net::SocketAddr, os::fd::AsFd as _, time::Duration};

use agent_common::Claim;
use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt::IpBindAddressNoPort},
};
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
    time,
};
use tracing::debug;

use super::{
    activity::KEEPALIVE, begin::Beginning, client::Client, reason::RefusalReason, service::Service,
};
use crate::config::{Protocol, Send};

/// How long an upstream may take to accept a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to an upstream on the client's behalf, and sends what comes first: the PROXY header if the relay
/// sends one, and over TCP the payload that was read along with the client's header. Otherwise returns why no
/// upstream can be had.
///
/// # Errors
///
/// When the upstream does not take those bytes.
pub(super) async fn open(
    service: &Service,
    beginning: &Beginning,
    client: &Client,
) -> Result<Result<TcpStream, RefusalReason>> {
    let mut upstream = match connect(service, client).await {
        Ok(upstream) => upstream,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut first = beginning.next_header(service.relay.send, client);
    if service.relay.protocol == Protocol::Tcp {
        first.extend(beginning.payload());
    }
    let limit = service.relay.idle_timeout.unwrap_or(Duration::MAX);
    time::timeout(limit, upstream.write_all(&first)).await??;
    Ok(Ok(upstream))
}

/// Connects to the upstream that the balancer chooses, or to the next one that answers and can be told the client.
async fn connect(service: &Service, client: &Client) -> Result<TcpStream, RefusalReason> {
    let mut reason = RefusalReason::Upstream;
    for at in service.balancer.candidates(client.endpoints.source.address) {
        let address = service.balancer.address(at);
        let attempt = time::timeout(CONNECT_TIMEOUT, connect_to(service, address, client));
        match attempt.await.context("timed out").flatten() {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                debug!("{}: {address}: {error:#}", service.name);
                let error: Option<&io::Error> = error.downcast_ref();
                if error.map(io::Error::kind) == Some(io::ErrorKind::PermissionDenied) {
                    // The data path refuses clients whom a policy of the upstream's port denies.
                    reason = RefusalReason::Denied;
                }
                let number = error.and_then(io::Error::raw_os_error);
                if number == Some(Errno::EAFNOSUPPORT as i32) {
                    // The data path refuses clients whom the upstream cannot be told.
                    reason = RefusalReason::Inexpressible;
                }
            }
        }
    }
    Err(reason)
}

/// Connects to this upstream, with the client's address as the source if the relay is transparent. A client on
/// the upstream's own host is not spoofed, as a host drops packets from outside that bear its own address.
async fn connect_to(service: &Service, address: SocketAddr, client: &Client) -> Result<TcpStream> {
    let connect = async |source| {
        let socket = socket(service, address, client, source)?;
        socket.connect(address).await
    };
    let source = client.endpoints.source.socket_addr();
    if service.relay.send != Send::Transparent || source.ip() == address.ip() {
        return Ok(connect(None).await?);
    }
    if source.is_ipv4() != address.is_ipv4() {
        if service.refuses {
            let error = io::Error::from(Errno::EAFNOSUPPORT);
            return Err(error).context("the client cannot be the source of this connection");
        }
        return Ok(connect(None).await?);
    }
    match connect(Some(source)).await {
        // Another connection has these ports and addresses. This one takes any port, and only the record
        // keeps the client's.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse
            ) =>
        {
            Ok(connect(Some(SocketAddr::new(source.ip(), 0))).await?)
        }
        connected => Ok(connected?),
    }
}

/// A socket that speaks for this client once it is connected to `address`, from a foreign `source` if there
/// is one.
fn socket(
    service: &Service,
    address: SocketAddr,
    client: &Client,
    source: Option<SocketAddr>,
) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_tcp_keepalive(&KEEPALIVE)?;
    if let (Some(source), Some(route)) = (source, service.relay.route()) {
        let options = SockRef::from(&socket);
        if source.is_ipv4() {
            options.set_ip_transparent_v4(true)?;
        } else {
            options.set_ip_transparent_v6(true)?;
        }
        options.set_mark(route.mark.value)?;
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(source)?;
    }
    if service.relay.speaks() {
        let expressed = if service.refuses { Claim::EXPRESSED } else { 0 };
        let claim = Claim {
            client: client.endpoints.source,
            original_dst: client.endpoints.destination,
            rule: client.rule,
            evidence: client.evidence as u8,
            // The upstream may be anywhere.
            conditions: Claim::CARRIED | Claim::RELAYED | expressed,
            ..Claim::default()
        };
        service
            .claims
            .claim(socket.as_fd(), claim)
            .map_err(io::Error::other)?;
    }
    Ok(socket)
}
