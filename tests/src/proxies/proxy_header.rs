//! PROXY headers as load balancers write them.

use std::net::SocketAddr;

use agent_common::proxy::{Endpoints, Peer, Ssl, Tlv, kind, write};
use serde_json::{Value, json};

/// A header of version 2 that names this client.
pub fn v2(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    with_tlv(client, destination, None)
}

/// A header of version 2 that names this client, with a checksum.
pub fn v2_with_checksum(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = Vec::new();
    let peer = Peer::Proxied(ends(client, destination));
    write::v2(&peer, [].into_iter(), true, &mut header).expect("a short header");
    header
}

/// A header of version 2 with a TLV whose value has `length` bytes, or without one.
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

/// A header of version 2 with a checksum and with TLVs of every kind that truepeer shows.
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

/// What truepeer shows of the header that [`telling`] writes.
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

/// A header of version 2 that names no client, as health checks and unknown endpoints have it.
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
