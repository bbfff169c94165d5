//! A client and a pod that holds proxy and application.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::clients::{client, connect_from, targets};
use crate::addresses::Family;
use crate::host::netns::Netns;

/// The client's addresses.
pub(super) const CLIENT: &str = "addr add 10.77.0.1/24 dev eth0
     addr add fd77::1/64 dev eth0";
/// The pod's, and the way back.
pub(super) const POD: &str = "addr add 10.77.0.2/24 dev eth0
     addr add fd77::2/64 dev eth0
     route add default via 10.77.0.1
     -6 route add default via fd77::1";

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
        let sidecar = Self::unplugged()?;
        sidecar.plug_in()?;
        Ok(sidecar)
    }

    /// Lays it out with what `connect` makes between client and pod: an interface `eth0` at both ends.
    pub fn over(connect: impl FnOnce(&Netns, &Netns) -> Result<()>) -> Result<Self> {
        let sidecar = Self::unplugged()?;
        connect(&sidecar.client, &sidecar.pod)?;
        sidecar.give_addresses()?;
        Ok(sidecar)
    }

    fn unplugged() -> Result<Self> {
        Ok(Self {
            client: client()?,
            pod: Netns::new("pod")?,
        })
    }

    /// Plugs the pod's cable in, as after [`Self::unplug`].
    pub fn plug_in(&self) -> Result<()> {
        self.client.connect("eth0", &self.pod, Self::INTERFACE)?;
        self.give_addresses()
    }

    fn give_addresses(&self) -> Result<()> {
        self.client.ip(CLIENT)?;
        self.pod.ip(POD)
    }

    /// From now on a client that does not choose its address connects from this one.
    pub fn connect_from(&self, address: IpAddr) -> Result<()> {
        connect_from(&self.client, address, Self::address)
    }

    /// Pulls the pod's cable out: its interface vanishes.
    pub fn unplug(&self) -> Result<()> {
        self.pod.ip("link del eth0")
    }

    /// The client's address, which may speak for other clients.
    pub fn sender(family: Family) -> IpAddr {
        family
            .pick("10.77.0.1", "fd77::1")
            .parse()
            .expect("an address")
    }

    /// The networks that both are in.
    pub fn networks() -> Vec<String> {
        ["10.77.0.0/24", "fd77::/64"].map(String::from).into()
    }

    /// The pod's address.
    pub fn address(family: Family) -> IpAddr {
        family
            .pick("10.77.0.2", "fd77::2")
            .parse()
            .expect("an address")
    }

    /// Where clients reach the proxy of [`crate::proxies::local_routes`].
    pub fn targets(port: u16) -> Vec<SocketAddr> {
        targets(port, Self::address)
    }
}
