//! The other side of a relayed connection.

use std::{io, net::SocketAddr, os::fd::AsFd as _, time::Duration};

use agent_common::Claim;
use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream},
    time,
};
use tracing::debug;

use super::{Service, connection::Client};
use crate::config::Send;

/// How long a connection to an upstream may take to be made.
pub(super) const CONNECT: Duration = Duration::from_secs(5);

/// Connects to an upstream in the client's name: the balancer's choice, or the next that answers.
pub(super) async fn connect(service: &Service, client: &Client) -> Option<TcpStream> {
    for at in service.balancer.candidates(client.endpoints.source.address) {
        let address = service.balancer.address(at);
        let attempt = time::timeout(CONNECT, connect_to(service, address, client));
        match attempt.await.context("timed out").flatten() {
            Ok(stream) => return Some(stream),
            Err(error) => debug!("{}: {address}: {error:#}", service.name),
        }
    }
    None
}

async fn connect_to(service: &Service, address: SocketAddr, client: &Client) -> Result<TcpStream> {
    if service.relay.send != Send::Transparent {
        return Ok(open(service, address, client, None)?
            .connect(address)
            .await?);
    }
    let source = client.endpoints.source.socket_addr();
    if source.is_ipv4() != address.is_ipv4() {
        bail!("{source} cannot be the source of a connection to {address}");
    }
    let socket = open(service, address, client, Some(source));
    let connected = match socket {
        Ok(socket) => socket.connect(address).await,
        Err(error) => Err(error),
    };
    match connected {
        // Port and upstream are those of another connection: the client's port is left to the record.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse
            ) =>
        {
            let any_port = SocketAddr::new(source.ip(), 0);
            Ok(open(service, address, client, Some(any_port))?
                .connect(address)
                .await?)
        }
        connected => Ok(connected?),
    }
}

/// A socket that is about to connect to `address` for this client, perhaps with a foreign source.
fn open(
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
    if matches!(
        service.relay.send,
        Send::Reveal | Send::Transparent | Send::Toa
    ) {
        let claim = Claim {
            client: client.endpoints.source,
            original_dst: client.endpoints.destination,
            rule: client.rule,
            evidence: client.evidence as u8,
            ..Claim::default()
        };
        service
            .claims
            .claim(socket.as_fd(), claim)
            .map_err(io::Error::other)?;
    }
    Ok(socket)
}
