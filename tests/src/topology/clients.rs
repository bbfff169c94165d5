//! The client, which has addresses of both families, and its routes.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::addresses::Family;
use crate::host::netns::Netns;

pub(super) fn targets(port: u16, address: impl Fn(Family) -> IpAddr) -> Vec<SocketAddr> {
    let ports = Family::ALL.into_iter().zip(port..);
    ports
        .map(|(family, port)| (address(family), port).into())
        .collect()
}

pub(super) fn connect_from(
    client: &Netns,
    address: IpAddr,
    to: fn(Family) -> IpAddr,
) -> Result<()> {
    let family = Family::of((address, 0).into());
    if family == Family::V6 {
        // IPv6 prefers addresses of interfaces only. `nodad`: it can be used at once.
        client.ip(&format!("addr replace {address} dev lo nodad"))?;
    }
    let to = to(family);
    client.ip(&format!("route replace {to} dev eth0 src {address}"))
}

/// A namespace in which any of [`Family::client`] can be bound.
pub(crate) fn client() -> Result<Netns> {
    let client = Netns::new("client")?;
    client.ip("route add local 203.0.113.0/24 dev lo
         -6 route add local 2001:db8:c::/112 dev lo")?;
    // IPv4 binds any address with a local route; IPv6 looks at the interfaces only.
    client.set_sysctl("net/ipv6/ip_nonlocal_bind", "1")?;
    Ok(client)
}
