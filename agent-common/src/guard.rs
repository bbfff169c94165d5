//! guard: what the data path knows of policies.

use crate::Address;

/// What a policy says about a client. Its number is the value of the `PREFIXES` map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may connect.
    Allow = 0,
    /// It may not.
    Deny = 1,
}

impl Verdict {
    /// Both, in the order of the numbers.
    pub const ALL: [Self; 2] = [Self::Allow, Self::Deny];
}

/// The policy of one port: value of the `POLICIES` map, whose key is the port (`u32`, host byte order).
///
/// Layout (12 bytes): group 0..4, rule 4..8, otherwise 8..12.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Tells which prefixes are its own ([`Prefix::new`]). A policy that changes gets another group, so that
    /// a port goes from all of its old prefixes to all of its new ones in one step.
    pub group: u32,
    /// [`crate::origin::rule_id`] of its name.
    pub rule: u32,
    /// The [`Verdict`], as its number, on clients in none of its prefixes.
    pub otherwise: u32,
}

/// Key of the `PREFIXES` map: an address among the prefixes of a policy.
///
/// Layout (20 bytes): scope 0..4, address 4..20.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The policy's group and the address family. IPv4 addresses lie within the IPv6 ones, but no IPv6 prefix
    /// may match them.
    scope: u32,
    /// The address.
    address: Address,
}

impl Prefix {
    /// Length of the scope in bits, by which a prefix is longer than that of the address.
    pub const SCOPE: u32 = 32;
    /// Length in bits.
    pub const BITS: u32 = Self::SCOPE + Address::BITS;

    /// An address among the prefixes of a group.
    #[inline(always)]
    pub const fn new(group: u32, address: Address) -> Self {
        Self {
            scope: group << 1 | address.is_v4() as u32,
            address,
        }
    }

    /// The group.
    pub const fn group(&self) -> u32 {
        self.scope >> 1
    }
}

/// How many connections a policy admitted and refused, indexed by [`Verdict`]: value of the `TALLIES` map,
/// whose key is the policy's rule (`u32`).
pub type Tally = [u64; 2];

/// How many prefixes all policies can have together. There is room for twice as many, because the old ones
/// remain while they are replaced.
pub const MAX_PREFIXES: u32 = 1 << 20;
/// How many policies there can be.
pub const MAX_POLICIES: u32 = 1024;

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Policy>() == 12 && size_of::<Prefix>() == 20);
    assert!(offset_of!(Policy, otherwise) == 8 && offset_of!(Prefix, address) == 4);
};

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn groups_and_families_do_not_mix() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let scopes = [
            Prefix::new(1, address("192.0.2.1")).scope,
            Prefix::new(1, address("2001:db8::1")).scope,
            Prefix::new(2, address("192.0.2.1")).scope,
            Prefix::new(2, address("::")).scope,
        ];
        for (i, scope) in scopes.iter().enumerate() {
            assert!(!scopes[..i].contains(scope), "{scopes:?}");
        }
        assert_eq!(Prefix::new(7, address("192.0.2.1")).group(), 7);
    }
}
