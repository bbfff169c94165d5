//! node: what the data path knows of SYNs that a node's own NAT is about to rewrite.

use crate::Endpoint;

/// Value of the `NODES` map.
///
/// Layout (8 bytes): rule 0..4, kind 4..8.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// [`crate::origin::rule_id`] of `node eth0`: what vouches for the sender's address.
    pub rule: u32,
    /// The kind of option by which it is told.
    pub kind: u32,
}

/// Key of the `PASSAGES` map: a SYN, by what NAT leaves as it is.
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

/// Value of the `PASSAGES` map: who says that this is the client.
///
/// Layout (40 bytes): since 0..8, original_dst 8..28, rule 28..32, evidence 32, padding 33..40.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Voucher {
    /// When the SYN came in: nanoseconds of `CLOCK_BOOTTIME`.
    pub since: u64,
    /// Where the client wanted to go; all zero where another hop named the client.
    pub original_dst: Endpoint,
    /// [`crate::origin::rule_id`] of the rule: `node eth0`, or of the hop's prefix.
    pub rule: u32,
    /// An [`crate::Evidence`] as its discriminant: `snat`, or `toa` of a trusted hop.
    pub evidence: u8,
    /// Always zero.
    pub padding: [u8; 7],
}

impl Voucher {
    /// For how many nanoseconds it is good: a SYN is answered at once, and who receives it could send its
    /// TOA again as his own.
    pub const LIFE: u64 = 1_000_000_000;
}

const _: () = {
    assert!(size_of::<Node>() == 8 && size_of::<Passage>() == 24);
    assert!(size_of::<Voucher>() == 40 && core::mem::offset_of!(Voucher, rule) == 28);
};
