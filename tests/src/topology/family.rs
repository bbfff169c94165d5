//! Both families of addresses, and the client that has addresses of each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::host::netns::Netns;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Loopback.
    pub fn localhost(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// The n-th of the client's source addresses. IPv4 has 254 and begins again, IPv6 has 65,535.
    pub fn client(self, n: usize) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(203, 0, 113, (n % 254 + 1) as u8).into(),
            Self::V6 => {
                Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, (n % 0xffff + 1) as u16).into()
            }
        }
    }

    /// The n-th address of a load balancer, which is the client's namespace's by no interface: routed there, it can
    /// be written to packets.
    pub fn balancer(self, n: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(198, 51, 100, n).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x1b, 0, 0, 0, 0, n.into()).into(),
        }
    }

    /// What belongs to it.
    pub(crate) fn pick<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }
}

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
