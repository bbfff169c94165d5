//! learn before this node's own NAT: vouchers for the clients of SYNs, found again by what NAT leaves as it
//! is, for the socket that answers on this node and for the SYN that leaves it.
//!
//! Whoever forges a SYN can have a voucher made. So a voucher is good for one SYN only, which comes from where the first one
//! came from or has been given an address of this node; and where only that address is left of it, the connection is the
//! client's if the server's SYN-ACK goes back to him the way that his SYN came.

use core::ptr::{read_volatile, write_volatile};

use agent_common::{
    Address, Claim, Counter, Endpoint, Evidence, Syn,
    node::{Given, Passage, Voucher, answer, user},
};
use aya_ebpf::bindings::BPF_NOEXIST;

use crate::{
    kernel::clock::boottime,
    maps::{NODE_ADDRESSES, PASSAGES, Replaced as _, exchange},
    tell::count,
};

/// Remembers who vouches for the client of a SYN that passes with TOA. When the SYN comes again, its voucher is good for
/// longer, for whom it was good before.
#[inline(never)]
pub(crate) fn vouch(client: &Endpoint, isn: u32, voucher: &Voucher) {
    let passage = Passage {
        client: *client,
        isn,
    };
    let given = Given {
        since: boottime(),
        user: 0,
        answer: 0,
        voucher: *voucher,
    };
    if PASSAGES
        .insert(&passage, &given, BPF_NOEXIST.into())
        .is_ok()
    {
        return;
    }
    let Some(known) = PASSAGES.get_ptr_mut(&passage) else {
        return;
    };
    // SAFETY: an entry of the map outlives the program's run. If it has become another SYN's, that lives longer by what it
    // has lived.
    unsafe {
        let before = &(*known).voucher;
        if before.source == voucher.source && before.original_dst == voucher.original_dst {
            write_volatile(&raw mut (*known).since, given.since);
        }
    }
}

/// This node's own voucher for the client that TOA on a SYN names, if this SYN may use it.
#[inline(never)]
pub(crate) fn voucher(client: &Endpoint, syn: &Syn) -> Option<&'static Voucher> {
    let passage = Passage {
        client: *client,
        isn: syn.isn,
    };
    let given = PASSAGES.get_ptr_mut(&passage)?;
    // SAFETY: as in `vouch`; nobody changes a voucher itself.
    let (since, voucher) = unsafe { (read_volatile(&raw const (*given).since), &(*given).voucher) };
    let is_good = boottime().wrapping_sub(since) < Given::LIFE
        && (voucher.source == syn.source || is_own(&syn.source.address));
    if !is_good {
        return None;
    }
    let user = user(syn);
    // SAFETY: a number in the map, which programs change in this way only. If the entry has become another SYN's, nobody will
    // use that one's voucher.
    let before = unsafe { exchange(&raw mut (*given).user, 0, user) };
    (before == 0 || before == user).then_some(voucher)
}

/// Whether the address is one of this node's.
#[inline(always)]
pub(crate) fn is_own(address: &Address) -> bool {
    NODE_ADDRESSES.look_up(address).is_some()
}

/// A SYN-ACK with this sequence number goes to `client`, whose SYN had the number `isn`, in the name of `original_dst`.
#[inline(always)]
pub(crate) fn answers(client: Endpoint, isn: u32, original_dst: &Endpoint, sequence: u32) {
    let Some(given) = PASSAGES.get_ptr_mut(&Passage { client, isn }) else {
        return;
    };
    // SAFETY: as in `vouch`. If the entry has become another SYN's, that is taken for unanswered.
    unsafe {
        if (*given).voucher.original_dst == *original_dst {
            write_volatile(&raw mut (*given).answer, answer(sequence));
        }
    }
}

/// Whether the claim holds for the connection that a SYN opened and a SYN-ACK with this sequence number answered. Counts it if
/// not.
#[inline(always)]
pub(crate) fn is_confirmed(claim: &Claim, syn: &Syn, sequence: u32) -> bool {
    if claim.evidence != Evidence::Snat as u8
        || claim.client == syn.source
        || claim.conditions & Claim::CONFIRMED != 0
    {
        return true;
    }
    let passage = Passage {
        client: claim.client,
        isn: syn.isn,
    };
    let given = PASSAGES.get_ptr(&passage);
    // SAFETY: as in `vouch`.
    let is_answered = given.is_some_and(
        |given| unsafe { read_volatile(&raw const (*given).answer) } == answer(sequence),
    );
    if !is_answered {
        count(Counter::ToaUnanswered);
    }
    is_answered
}
