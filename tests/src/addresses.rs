//! Addresses of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
