//! PROXY headers, and agents that take them off.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use agent_common::Counter;
use agent_common::proxy::{Endpoints, Peer, Tlv, kind, write};
use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::agent::{Agent, Config, Unwrap};
use crate::netns::Netns;
use crate::topology::{Gateway, Sidecar};

const TIMEOUT: Duration = Duration::from_secs(5);
/// The networks of the senders: a sidecar's client, and a gateway as its server knows it.
const SENDERS: [&str; 4] = ["10.77.0.0/24", "fd77::/64", "10.78.0.0/24", "fd78::/64"];
/// Counters of what is refused.
pub const REFUSALS: [Counter; 5] = [
    Counter::UnwrapUntrusted,
    Counter::UnwrapNoHeader,
    Counter::UnwrapInvalid,
    Counter::UnwrapSplit,
    Counter::UnwrapFull,
];

/// Takes headers of both versions off connections to `ports` of the pod.
pub fn in_pod(directory: &Path, topology: &Sidecar, ports: &[&str]) -> Result<Config> {
    config(directory, &topology.pod, Sidecar::INTERFACE, ports)
}

/// Likewise of the server behind a gateway.
pub fn on_server(directory: &Path, topology: &Gateway, ports: &[&str]) -> Result<Config> {
    config(directory, &topology.server, "eth0", ports)
}

fn config(directory: &Path, netns: &Netns, interface: &str, ports: &[&str]) -> Result<Config> {
    let mut config = Config::new(directory, [])?;
    config.trust.sources = SENDERS.map(String::from).into();
    config.unwrap.push(Unwrap::new(netns, interface, ports));
    Ok(config)
}

/// Fails unless every connection was taken.
pub fn none_refused(agent: &Agent) -> Result<()> {
    for counter in REFUSALS {
        let refused = agent.counter(counter)?;
        ensure!(refused == 0, "{}: {refused}", counter.name());
    }
    Ok(())
}

/// A header of version 2 that names this client.
pub fn v2(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    with_tlv(client, destination, None)
}

/// A header of version 2 with a TLV of so many bytes, besides its kind and length.
pub fn with_tlv(client: SocketAddr, destination: SocketAddr, length: Option<usize>) -> Vec<u8> {
    let value = vec![0x5a; length.unwrap_or_default()];
    let tlv = length.map(|_| Tlv {
        kind: kind::NOOP,
        value: &value,
    });
    let mut header = Vec::new();
    let peer = Peer::Proxied(ends(client, destination));
    write::v2(&peer, tlv.into_iter(), false, &mut header).expect("a short header");
    header
}

/// A header of version 2 that names no client: of a health check, or of unknown endpoints.
pub fn anonymous(peer: &Peer) -> Vec<u8> {
    let mut header = Vec::new();
    write::v2(peer, [].into_iter(), false, &mut header).expect("a short header");
    header
}

/// A header of version 1 that names this client.
pub fn v1(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = Vec::new();
    write::v1(Some(&ends(client, destination)), &mut header);
    header
}

fn ends(client: SocketAddr, destination: SocketAddr) -> Endpoints {
    Endpoints {
        source: client.into(),
        destination: destination.into(),
    }
}

/// Connects from `netns`; what is written goes out at once.
pub fn connect(netns: &Netns, target: SocketAddr) -> Result<TcpStream> {
    connect_with(netns, target, |_| Ok(()))
}

/// Likewise, from a socket that is prepared first.
pub fn connect_with(
    netns: &Netns,
    target: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()> + Send,
) -> Result<TcpStream> {
    netns.enter(|| {
        let domain = Domain::for_address(target);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        prepare(&socket)?;
        socket.connect_timeout(&target.into(), TIMEOUT)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    })
}
