//! carry before a node's own NAT: which SYNs are given TOA, and who vouches for them.

use crate::{Endpoint, ports::Ports};

/// Key of the `NODES` map: an interface by which SYNs come in.
///
/// Layout (16 bytes): netns 0..8, ifindex 8..12, padding 12..16.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Interface {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The interface.
    pub ifindex: u32,
    /// Always zero.
    pub padding: u32,
}

/// Value of the `NODES` map: which SYNs are given TOA.
///
/// Layout (8,200 bytes): rule 0..4, kind 4..8, ports 8..8200.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// [`crate::origin::rule_id`] of the rule that vouches for the sender's address, such as `node eth0`.
    pub rule: u32,
    /// The kind of the option that carries TOA.
    pub kind: u32,
    /// Destination ports.
    pub ports: Ports,
}

impl Node {
    /// No port yet.
    pub const fn new(rule: u32, kind: u8) -> Self {
        Self {
            rule,
            kind: kind as u32,
            ports: Ports::NONE,
        }
    }
}

/// Key of the `PASSAGES` map: a SYN, identified by what NAT does not change.
///
/// Layout (24 bytes): client 0..20, isn 20..24.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Passage {
    /// The client that its TOA names.
    pub client: Endpoint,
    /// Its sequence number, host byte order.
    pub isn: u32,
}

/// Value of the `PASSAGES` map: who vouches for the client of a SYN.
///
/// Layout (40 bytes): since 0..8, original_dst 8..28, rule 28..32, evidence 32, padding 33..40.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Voucher {
    /// When the SYN came in: nanoseconds of `CLOCK_BOOTTIME`.
    pub since: u64,
    /// Where the client wanted to go; all zero if another hop named the client.
    pub original_dst: Endpoint,
    /// [`crate::origin::rule_id`] of the rule: `node eth0`, or of the hop's prefix.
    pub rule: u32,
    /// An [`crate::Evidence`] as its discriminant: `snat`, or `toa` of a trusted hop.
    pub evidence: u8,
    /// Always zero.
    pub padding: [u8; 7],
}

impl Voucher {
    /// For how many nanoseconds a voucher is good. A SYN is answered at once, and whoever receives it could
    /// send its TOA again as their own.
    pub const LIFE: u64 = 1_000_000_000;
}

const _: () = {
    assert!(size_of::<Interface>() == 16 && size_of::<Node>() == 8 + size_of::<Ports>());
    assert!(size_of::<Passage>() == 24);
    assert!(size_of::<Voucher>() == 40 && core::mem::offset_of!(Voucher, rule) == 28);
};
