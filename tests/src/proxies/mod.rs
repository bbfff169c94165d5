//! Proxies, and where they listen.

pub mod envoy;
pub mod haproxy;
pub mod nginx;
pub mod own;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::topology::{Family, Gateway};

/// Where a proxy listens and where it connects to.
pub type Route = (SocketAddr, SocketAddr);

/// Every IPv4 address with this port.
pub fn any_v4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

/// `[::]` with this port: our own servers listen there on a dual-stack socket, Envoy, HAProxy and
/// nginx for IPv6 only.
pub fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// Every address of this family with this port.
pub fn any_of_family(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => any_v4(port),
        Family::V6 => any(port),
    }
}

/// The routes of a proxy whose application is in the same namespace: from `port` on all IPv4 addresses, and from the
/// next port on all IPv6 addresses.
pub fn local_routes(port: u16, application: u16) -> Vec<Route> {
    routes(port, |family| (family.localhost(), application).into())
}

/// The routes of a proxy on a gateway whose application is on the server: from `port` on all IPv4 addresses, and from
/// the next port on all IPv6 addresses.
pub fn gateway_routes(port: u16, application: u16) -> Vec<Route> {
    routes(port, |family| (Gateway::server(family), application).into())
}

fn routes(port: u16, upstream: impl Fn(Family) -> SocketAddr) -> Vec<Route> {
    Family::ALL
        .into_iter()
        .zip(port..)
        .map(|(family, port)| (any_of_family(family, port), upstream(family)))
        .collect()
}
