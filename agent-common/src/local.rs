//! What belongs to a network namespace, where the kernel does not tell a program: its addresses, and what comes in for the
//! bridge above an interface.

use crate::Address;

/// Key of the `LOCAL` trie: an address, or a prefix of addresses, of a network namespace.
///
/// Layout (28 bytes): netns 0..8 as two words, is_v4 8..12, address 12..28.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Local {
    /// Cookie of the network namespace, the low and the high half.
    netns: [u32; 2],
    /// 1 for IPv4, whose addresses lie within those of IPv6, but in no prefix of IPv6; else 0.
    is_v4: u32,
    /// The address.
    address: Address,
}

impl Local {
    /// By how many bits a prefix is longer than that of the address.
    pub const SCOPE: u32 = 96;
    /// Length in bits.
    pub const BITS: u32 = Self::SCOPE + Address::BITS;

    /// An address of the network namespace with this cookie.
    #[inline(always)]
    pub const fn new(netns: u64, address: Address) -> Self {
        Self {
            netns: [netns as u32, (netns >> 32) as u32],
            is_v4: address.is_v4() as u32,
            address,
        }
    }

    /// The cookie of its network namespace.
    pub const fn netns(&self) -> u64 {
        (self.netns[1] as u64) << 32 | self.netns[0] as u64
    }
}

/// How many prefixes of addresses all served network namespaces can have together.
pub const MAX_LOCALS: u32 = 1 << 18;

/// An Ethernet address as a number, value of the `MASTERS` map: its bytes in their order, then zeros, as the machine reads
/// them.
#[inline(always)]
pub const fn mac([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

const _: () = assert!(size_of::<Local>() == 28 && Local::BITS as usize == 8 * size_of::<Local>());

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn no_prefix_of_ipv6_has_an_address_of_ipv4() {
        let of = |netns, text: &str| Local::new(netns, text.parse::<IpAddr>().unwrap().into());
        let (v4, v6) = (of(7 << 32, "192.0.2.1"), of(7 << 32, "::"));
        assert_eq!(v4.netns(), 7 << 32);
        assert_eq!(v4.netns, v6.netns);
        assert_ne!(v4.is_v4, v6.is_v4);
        assert_ne!(v4, of(7, "192.0.2.1"));
    }
}
