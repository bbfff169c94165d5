//! Addresses and endpoints in one form for IPv4 and IPv6.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An IPv4 or IPv6 address: four words, each in network byte order as the kernel holds them; IPv4 as
/// `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
///
/// One form for both families means that an IPv4 client on a dual-stack AF_INET6 socket equals the
/// same client on an AF_INET socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// Length in bits; a prefix of IPv4 is 96 longer than it is written.
    pub const BITS: u32 = 128;
    /// The third word of an IPv4 address.
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// From an IPv4 address in network byte order.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, Self::MAPPED, word])
    }

    /// From an IPv6 address in network byte order.
    #[inline(always)]
    pub const fn v6(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        let [a, b, c, _] = self.0;
        a == 0 && b == 0 && c == Self::MAPPED
    }

    /// Whether it is of 127.0.0.0/8 or `::1`.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        let [a, b, c, d] = self.0;
        let d = u32::from_be(d);
        (self.is_v4() && d >> 24 == 127) || (a == 0 && b == 0 && c == 0 && d == 1)
    }

    /// Whether one host can have it: neither unspecified, multicast nor IPv4's broadcast.
    #[inline(always)]
    pub const fn is_unicast(self) -> bool {
        let [a, b, c, d] = self.0;
        if self.is_v4() {
            d != 0 && u32::from_be(d) >> 28 != 0xe && d != u32::MAX
        } else {
            a | b | c | d != 0 && u32::from_be(a) >> 24 != 0xff
        }
    }

    /// Whether it can be the address of a client on the network: one host's, and not loopback.
    #[inline(always)]
    pub const fn is_host(self) -> bool {
        self.is_unicast() && !self.is_loopback()
    }

    /// The address as the standard library's type: IPv4 where it is IPv4-mapped.
    pub fn ip(self) -> IpAddr {
        self.ipv6().to_canonical()
    }

    /// The address as an IPv6 address: IPv4-mapped where it is IPv4.
    pub fn ipv6(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        for (four, word) in octets.chunks_exact_mut(4).zip(self.0) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        octets.into()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let octets = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let word =
            |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
        Self([word(0), word(4), word(8), word(12)])
    }
}

/// An address and a TCP port.
///
/// Layout (20 bytes): address 0..16 in network order, port 16..18 in host order, padding 18..20.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port, in host byte order.
    pub port: u16,
    /// Always zero: endpoints are parts of map keys.
    pub padding: u16,
}

impl Endpoint {
    /// An endpoint from its address and its port in host byte order.
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self {
            address,
            port,
            padding: 0,
        }
    }

    /// The endpoint as the standard library's type.
    pub fn socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.ip().into(), address.port())
    }
}

const _: () = assert!(size_of::<Address>() == 16 && align_of::<Address>() == 4);
const _: () = assert!(size_of::<Endpoint>() == 20 && core::mem::offset_of!(Endpoint, port) == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:80".parse().unwrap();
        let plain: SocketAddr = "192.0.2.1:80".parse().unwrap();
        assert_eq!(Endpoint::from(mapped), Endpoint::from(plain));
        assert_eq!(Endpoint::from(mapped).socket_addr(), plain);
    }

    #[test]
    fn loopback_is_127_8_and_1() {
        let is_loopback = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_loopback();
        assert!(is_loopback("127.0.0.6") && is_loopback("::1"));
        assert!(!is_loopback("126.0.0.1") && !is_loopback("::6") && !is_loopback("2001:db8::1"));
    }

    #[test]
    fn a_client_has_an_address_of_its_own() {
        let is_host = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_host();
        for no in ["0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1"] {
            assert!(!is_host(no), "{no}");
        }
        for yes in ["192.0.2.1", "10.0.0.0", "2001:db8::1", "fe80::1", "::6"] {
            assert!(is_host(yes), "{yes}");
        }
    }

    #[test]
    fn unicast_is_what_a_host_can_have() {
        let is_unicast = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_unicast();
        for address in [
            "1.2.3.4",
            "127.0.0.1",
            "223.255.255.255",
            "240.0.0.1",
            "::1",
            "fe80::1",
        ] {
            assert!(is_unicast(address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "::",
            "ff02::1",
        ] {
            assert!(!is_unicast(address), "{address}");
        }
    }

    #[test]
    fn ipv6_survives_the_round_trip() {
        let address: SocketAddr = "[2001:db8::7]:51812".parse().unwrap();
        assert_eq!(Endpoint::from(address).socket_addr(), address);
    }
}
