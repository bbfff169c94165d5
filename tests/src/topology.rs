//! Hosts and cables: a sidecar's pod, and a gateway between client and server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::netns::Netns;

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

/// A client and a pod that holds the proxy and the application.
pub struct Sidecar {
    /// Where connections come from.
    pub client: Netns,
    /// Where proxy and application run; clients come in by `eth0`.
    pub pod: Netns,
}

impl Sidecar {
    /// The pod's interface.
    pub const INTERFACE: &str = "eth0";

    /// Lays it out.
    pub fn new() -> Result<Self> {
        let sidecar = Self {
            client: client()?,
            pod: Netns::new("pod")?,
        };
        sidecar.plug_in()?;
        Ok(sidecar)
    }

    /// Plugs the pod's cable in, as after [`Self::unplug`].
    pub fn plug_in(&self) -> Result<()> {
        self.client.connect("eth0", &self.pod, Self::INTERFACE)?;
        self.client.ip("addr add 10.77.0.1/24 dev eth0
             addr add fd77::1/64 dev eth0")?;
        self.pod.ip("addr add 10.77.0.2/24 dev eth0
             addr add fd77::2/64 dev eth0
             route add default via 10.77.0.1
             -6 route add default via fd77::1")
    }

    /// From now on a client that does not choose its address connects from this one.
    pub fn connect_from(&self, address: IpAddr) -> Result<()> {
        connect_from(&self.client, address, Self::address)
    }

    /// Pulls the pod's cable out: its interface vanishes.
    pub fn unplug(&self) -> Result<()> {
        self.pod.ip("link del eth0")
    }

    /// The pod's address.
    pub fn address(family: Family) -> IpAddr {
        family
            .pick("10.77.0.2", "fd77::2")
            .parse()
            .expect("an address")
    }

    /// Where clients reach the proxy of [`crate::proxy::local_routes`].
    pub fn targets(port: u16) -> Vec<SocketAddr> {
        targets(port, Self::address)
    }
}

fn targets(port: u16, address: impl Fn(Family) -> IpAddr) -> Vec<SocketAddr> {
    let ports = Family::ALL.into_iter().zip(port..);
    ports
        .map(|(family, port)| (address(family), port).into())
        .collect()
}

/// A client and a server with a proxy host between them, through which the server's answers return.
pub struct Gateway {
    /// Where connections come from.
    pub client: Netns,
    /// Where the proxy runs.
    pub gateway: Netns,
    /// Where the application runs.
    pub server: Netns,
}

impl Gateway {
    /// The gateway's interface towards the client.
    pub const FRONT: &str = "front";
    /// The gateway's interface towards the server.
    pub const BACK: &str = "back";

    /// Lays it out.
    pub fn new() -> Result<Self> {
        let client = client()?;
        let gateway = Netns::new("gateway")?;
        let server = Netns::new("server")?;
        client.connect("eth0", &gateway, Self::FRONT)?;
        gateway.connect(Self::BACK, &server, "eth0")?;
        client.ip("addr add 10.77.0.1/24 dev eth0
             addr add fd77::1/64 dev eth0
             route add 10.78.0.0/24 via 10.77.0.2
             -6 route add fd78::/64 via fd77::2")?;
        gateway.ip("addr add 10.77.0.2/24 dev front
             addr add fd77::2/64 dev front
             addr add 10.78.0.1/24 dev back
             addr add fd78::1/64 dev back
             route add default via 10.77.0.1
             -6 route add default via fd77::1")?;
        gateway.set_sysctl("net/ipv4/ip_forward", "1")?;
        gateway.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        server.ip("addr add 10.78.0.2/24 dev eth0
             addr add fd78::2/64 dev eth0
             route add default via 10.78.0.1
             -6 route add default via fd78::1")?;
        Ok(Self {
            client,
            gateway,
            server,
        })
    }

    /// From now on a client that does not choose its address connects to the gateway from this one.
    pub fn connect_from(&self, address: IpAddr) -> Result<()> {
        connect_from(&self.client, address, Self::front)
    }

    /// The gateway's address on the client's side.
    pub fn front(family: Family) -> IpAddr {
        family
            .pick("10.77.0.2", "fd77::2")
            .parse()
            .expect("an address")
    }

    /// Where clients reach the proxy of [`crate::proxy::gateway_routes`].
    pub fn targets(port: u16) -> Vec<SocketAddr> {
        targets(port, Self::front)
    }

    /// The gateway's address on the server's side: what the server sees without truepeer.
    pub fn back(family: Family) -> IpAddr {
        family
            .pick("10.78.0.1", "fd78::1")
            .parse()
            .expect("an address")
    }

    /// The server's address.
    pub fn server(family: Family) -> IpAddr {
        family
            .pick("10.78.0.2", "fd78::2")
            .parse()
            .expect("an address")
    }
}

fn connect_from(client: &Netns, address: IpAddr, to: fn(Family) -> IpAddr) -> Result<()> {
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
