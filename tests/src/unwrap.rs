//! PROXY headers, and agents that take them off.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use agent_common::Counter;
use agent_common::proxy::{Endpoints, Peer, Ssl, Tlv, kind, write};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
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

/// A header of version 2 with a checksum that says much besides this client.
pub fn telling(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let ssl = [&[Ssl::CLIENT_SSL, 0, 0, 0, 1][..], b"\x21\x00\x07TLSv1.3"].concat();
    let tlvs = [
        (kind::ALPN, &b"h2"[..]),
        (kind::AUTHORITY, b"shop.example"),
        (kind::SSL, &ssl),
        (kind::AWS, b"\x01vpce-08d2bf15fac5001c9"),
        (kind::AZURE, b"\x01\x78\x56\x34\x12"),
        (kind::GCP, &[0, 0, 0, 0, 0, 0, 0, 7]),
        (0xf0, b"of nobody"),
    ]
    .map(|(kind, value)| Tlv { kind, value });
    let mut header = Vec::new();
    let peer = Peer::Proxied(ends(client, destination));
    write::v2(&peer, tlvs.into_iter(), true, &mut header).expect("a short header");
    header
}

/// What is shown of the header of [`telling`].
pub fn told() -> Value {
    json!({
        "alpn": "h2",
        "authority": "shop.example",
        "tls": {"version": "TLSv1.3", "client_verified": false},
        "aws_vpc_endpoint": "vpce-08d2bf15fac5001c9",
        "azure_private_endpoint": 0x1234_5678,
        "gcp_psc_connection": 7,
    })
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
