//! learn before this node's own NAT: what it sees of a SYN is remembered by what NAT leaves as it is, for the socket
//! that answers on this node.

use agent_common::{
    Endpoint,
    node::{Passage, Voucher},
};
use aya_ebpf::bindings::BPF_ANY;

use crate::{
    kernel::clock::boottime,
    maps::{PASSAGES, Replaced as _},
};

/// Remembers who vouches for the client of a SYN that passes with TOA; the time of the voucher is now.
#[inline(always)]
pub(crate) fn vouch(client: Endpoint, isn: u32, voucher: Voucher) {
    let voucher = Voucher {
        since: boottime(),
        ..voucher
    };
    let _ = PASSAGES.insert(Passage { client, isn }, voucher, BPF_ANY.into());
}

/// What this node itself knows of the client that TOA on a SYN names.
#[inline(always)]
pub(super) fn voucher(client: Endpoint, isn: u32) -> Option<&'static Voucher> {
    let voucher = PASSAGES.look_up(Passage { client, isn })?;
    (boottime().wrapping_sub(voucher.since) < Voucher::LIFE).then_some(voucher)
}
