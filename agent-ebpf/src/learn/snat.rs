//! learn before this node's own NAT: vouchers for the clients of SYNs, found again by what NAT leaves as it
//! is, for the socket that answers on this node.

use agent_common::{
    Endpoint,
    node::{Passage, Voucher},
};
use aya_ebpf::bindings::BPF_ANY;

use crate::{
    kernel::clock::boottime,
    maps::{PASSAGES, Replaced as _},
};

/// Remembers who vouches for the client of a SYN that passes with TOA. The voucher is stamped with the time.
#[inline(always)]
pub(crate) fn vouch(client: Endpoint, isn: u32, voucher: Voucher) {
    let voucher = Voucher {
        since: boottime(),
        ..voucher
    };
    let _ = PASSAGES.insert(Passage { client, isn }, voucher, BPF_ANY.into());
}

/// This node's own voucher for the client that TOA on a SYN names.
#[inline(always)]
pub(super) fn voucher(client: Endpoint, isn: u32) -> Option<&'static Voucher> {
    let voucher = PASSAGES.look_up(Passage { client, isn })?;
    (boottime().wrapping_sub(voucher.since) < Voucher::LIFE).then_some(voucher)
}
