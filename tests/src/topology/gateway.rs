//! A client and a server, and a proxy host between them.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::clients::{client, connect_from, targets};
use crate::addresses::Family;
use crate::host::netns::Netns;

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
        Self::over(|gateway, server| gateway.connect(Self::BACK, server, "eth0"))
    }

    /// Lays it out with what `connect` makes between gateway and server: an interface `back` at one end, and `eth0` at the
    /// other.
    pub fn over(connect: impl FnOnce(&Netns, &Netns) -> Result<()>) -> Result<Self> {
        let client = client()?;
        let gateway = Netns::new("gateway")?;
        let server = Netns::new("server")?;
        client.connect("eth0", &gateway, Self::FRONT)?;
        connect(&gateway, &server)?;
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

    /// Where clients reach the proxy of [`crate::proxies::gateway_routes`].
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
