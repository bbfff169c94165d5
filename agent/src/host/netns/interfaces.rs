//! The interfaces of a network namespace.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    link::{LinkAttribute, LinkFlags, LinkLayerType},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_indextoname, if_nametoindex},
};

use super::namespace::Netns;

/// The longest name in bytes: `IFNAMSIZ` without the final zero.
const NAME_MAX: usize = 15;

/// A device by what the kernel finds it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
}

/// What the frames of an interface begin with, where a packet program meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// An IP header, as on WireGuard's devices and other tunnels.
    Ip,
}

impl Framing {
    /// That of devices of a type with these flags.
    pub(super) fn of(kind: LinkLayerType, flags: LinkFlags) -> Option<Self> {
        use LinkLayerType as Type;
        match kind {
            Type::Ether | Type::Loopback => Some(Self::Ethernet),
            Type::None | Type::Ppp | Type::Tunnel | Type::Tunnel6 | Type::Rawip => Some(Self::Ip),
            // With several other ends, its frames begin with the tunnel's own header.
            Type::Ipgre | Type::Ip6gre if flags.contains(LinkFlags::Pointopoint) => Some(Self::Ip),
            _ => None,
        }
    }
}

/// The routing table of what is delivered here (`RT_TABLE_LOCAL` of linux/rtnetlink.h).
const LOCAL_TABLE: u32 = 255;

/// How many devices may be stacked (`MAX_NEST_DEV` of linux/netdevice.h).
const MAX_NESTED: usize = 8;

/// Whether the kernel lets an interface have this name (`dev_valid_name`).
pub fn is_interface_name(name: &str) -> bool {
    let is_forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace();
    (1..=NAME_MAX).contains(&name.len())
        && ![".", ".."].contains(&name)
        && !name.contains(is_forbidden)
}

impl Netns {
    /// The index of the interface with this name, which is not an alternative name; `None`: there is none. The kernel
    /// is asked for it alone, as a list may leave one out while others come and go.
    pub fn find_interface(&self, name: &str) -> Result<Option<u32>> {
        self.run(|| {
            let index = match if_nametoindex(name) {
                Err(Errno::ENODEV) => return Ok(None),
                index => index.with_context(|| format!("cannot look for interface {name}"))?,
            };
            let is_its_name =
                if_indextoname(index).is_ok_and(|own| own.as_bytes() == name.as_bytes());
            Ok(is_its_name.then_some(index))
        })
    }

    /// The index of the interface with this name.
    pub fn interface_index(&self, name: &str) -> Result<u32> {
        if let Some(index) = self.find_interface(name)? {
            return Ok(index);
        }
        let names: Vec<_> = self.interfaces()?.into_iter().map(|i| i.name).collect();
        bail!(
            "no interface \"{name}\" in {self}, which has: {}",
            names.join(", ")
        )
    }

    /// How the frames of this interface begin.
    ///
    /// # Errors
    ///
    /// When there is no such interface, or its frames begin in a way that the data path does not read.
    pub fn framing(&self, name: &str) -> Result<Framing> {
        let index = self.interface_index(name)?;
        let header = self.netlink(async |handle| {
            let mut links = handle.link().get().match_index(index).execute();
            let link = links.try_next().await.context("cannot look for it")?;
            Ok(link.context("it has gone")?.header)
        });
        let header = header.with_context(|| format!("interface {name} of {self}"))?;
        Framing::of(header.link_layer_type, header.flags).with_context(|| {
            format!(
                "the packets of interface {name} of {self} begin neither with an Ethernet nor with an IP header ({}): name \
                 another interface, such as the one that they come in by",
                header.link_layer_type
            )
        })
    }

    /// The addresses of the namespace's interfaces that other hosts may know: neither loopback nor link-local ones.
    pub fn addresses(&self) -> Result<HashSet<IpAddr>> {
        let is_known = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_loopback(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        Ok(self.all_addresses()?.into_iter().filter(is_known).collect())
    }

    fn all_addresses(&self) -> Result<Vec<IpAddr>> {
        self.run(|| {
            let all = getifaddrs().context("cannot list addresses")?;
            let addresses = all.filter_map(|a| {
                let address = a.address?;
                let v4 = address.as_sockaddr_in().map(|a| a.ip().into());
                v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))
            });
            Ok(addresses.collect())
        })
    }

    /// The topmost device that this interface is a port of, such as a bridge or a bond; without one, the interface itself.
    pub fn topmost(&self, index: u32) -> Result<Device> {
        self.netlink(async |handle| {
            let mut device = Device { index, mac: None };
            for _ in 0..MAX_NESTED {
                let mut links = handle.link().get().match_index(device.index).execute();
                let link = links.try_next().await.context("cannot look for a master")?;
                let mut above = None;
                for attribute in link.into_iter().flat_map(|link| link.attributes) {
                    match attribute {
                        LinkAttribute::Controller(index) if index != 0 => above = Some(index),
                        LinkAttribute::Address(address) => device.mac = address.try_into().ok(),
                        _ => {}
                    }
                }
                let Some(index) = above else { break };
                device = Device { index, mac: None };
            }
            Ok(device)
        })
    }

    /// The prefixes of all addresses that are the namespace's own: those of its interfaces, and what its routes of type `local`
    /// say besides. A new address is told of before it has such a route.
    pub fn own_prefixes(&self) -> Result<HashSet<IpNet>> {
        let addresses = self.all_addresses()?.into_iter();
        let mut own: HashSet<_> = addresses.map(IpNet::from).collect();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            self.each_route(family, LOCAL_TABLE, |route| own.extend(own_prefix(&route)))?;
        }
        Ok(own)
    }

    /// Whether the interface with this name is up.
    pub fn is_up(&self, name: &str) -> Result<bool> {
        self.run(|| {
            let addresses = getifaddrs().context("cannot list interfaces")?;
            let up = InterfaceFlags::IFF_UP;
            Ok(addresses
                .into_iter()
                .any(|a| a.interface_name == name && a.flags.contains(up)))
        })
    }
}

/// What a route says that makes a prefix of addresses the namespace's own.
fn own_prefix(route: &RouteMessage) -> Option<IpNet> {
    if route.header.kind != RouteType::Local {
        return None;
    }
    let all = match route.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let address = route.attributes.iter().find_map(of).unwrap_or(all);
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_its_name() {
        let netns = Netns::current().unwrap();
        assert_eq!(netns.find_interface("lo").unwrap(), Some(1));
        assert_eq!(netns.find_interface("a234567890123456").unwrap(), None);
        assert_eq!(netns.interface_index("lo").unwrap(), 1);
        let error = netns.interface_index("ethO").unwrap_err().to_string();
        assert!(
            error.contains("\"ethO\"") && error.contains("lo"),
            "{error}"
        );
    }

    #[test]
    fn loopbacks_addresses_are_the_namespaces_own() {
        let own = Netns::current().unwrap().own_prefixes().unwrap();
        let is_own = |text: &str| {
            own.iter()
                .any(|p| p.contains(&text.parse::<IpAddr>().unwrap()))
        };
        assert!(is_own("127.0.0.1") && is_own("127.1.2.3"), "{own:?}");
        assert!(!is_own("192.0.2.1"), "{own:?}");
    }

    #[test]
    fn loopback_has_an_ethernet_header() {
        let netns = Netns::current().unwrap();
        assert_eq!(netns.framing("lo").unwrap(), Framing::Ethernet);
        assert!(netns.framing("ethO").is_err());
    }

    #[test]
    fn tunnels_between_two_ends_have_no_header_of_their_own() {
        let between_two = LinkFlags::Pointopoint;
        for kind in [
            LinkLayerType::None,
            LinkLayerType::Ppp,
            LinkLayerType::Tunnel,
        ] {
            assert_eq!(Framing::of(kind, between_two), Some(Framing::Ip));
        }
        let gre = |flags| Framing::of(LinkLayerType::Ipgre, flags);
        assert_eq!(gre(between_two), Some(Framing::Ip));
        assert_eq!(gre(LinkFlags::Broadcast), None);
        assert_eq!(Framing::of(LinkLayerType::Sit, between_two), None);
    }

    #[test]
    fn names_are_those_that_the_kernel_takes() {
        for good in ["eth0", "a23456789012345", "?#%"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "a234567890123456"] {
            assert!(!is_interface_name(bad), "{bad}");
        }
    }
}
