//! Proxies, and where they listen.

pub mod envoy;
pub mod haproxy;
pub mod nginx;
pub mod own;
pub mod proxy_header;

use std::net::SocketAddr;

use crate::addresses::Family;
pub use crate::addresses::{any, any_of_family, any_v4};
use crate::topology::Gateway;

/// Where a proxy listens and where it connects to.
pub type Route = (SocketAddr, SocketAddr);

/// How a proxy with several workers listens on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// By a listener for each worker, which share the port (`SO_REUSEPORT`), as Envoy does by default; HAProxy's would let
    /// others share it.
    Shared,
    /// By one listener for all workers.
    Alone,
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
