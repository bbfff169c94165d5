//! carry: what a local proxy says about its client goes with the SYN, to a socket of this host through
//! `HANDOVERS` and to the destinations of `[carry.toa]` as a TCP option.

use agent_common::{Claim, Counter, Endpoint, Syn, toa};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG},
    helpers::generated::{bpf_reserve_hdr_opt, bpf_store_hdr_opt},
    programs::SockOpsContext,
};

use crate::{
    counters::count,
    maps::{CARRY, CLAIMS, HANDOVERS, longest_match},
    sockops::{self, local, remote},
    tag,
};

/// A socket begins to connect: if it speaks for a client, its SYN is wanted.
#[inline(always)]
pub(crate) fn connects(ctx: &SockOpsContext) {
    if claim(ctx).is_some() {
        sockops::call_for(ctx, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
    }
}

/// Notes the SYN before it is sent, and makes room for its option.
#[inline(never)]
pub(crate) fn sends(ctx: &SockOpsContext) {
    let Some(claim) = claim(ctx) else { return };
    let syn = Syn {
        source: local(ctx),
        destination: remote(ctx),
        isn: isn(ctx),
    };
    let _ = HANDOVERS.insert(syn, claim, BPF_ANY.into());
    if longest_match(&CARRY, syn.destination.address).is_none() {
        return;
    }
    let length = if claim.client.address.is_v4() {
        toa::LEN_V4
    } else {
        toa::LEN_V6
    };
    if !reserve(ctx, length) {
        count(Counter::CarryNoRoom);
    } else if tag::is_wanted() {
        // What does not fit is told when it cannot be written.
        reserve(ctx, agent_common::tag::LEN);
    }
}

#[inline(always)]
fn reserve(ctx: &SockOpsContext, length: u8) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { bpf_reserve_hdr_opt(ctx.as_ptr().cast(), length.into(), 0) == 0 }
}

/// Writes the option that there is room for.
#[inline(never)]
pub(crate) fn writes(ctx: &SockOpsContext) {
    let Some(claim) = claim(ctx) else { return };
    let Some(kind) = longest_match(&CARRY, remote(ctx).address) else {
        return;
    };
    let client = named_by(&claim, local(ctx).port);
    let stored = if client.address.is_v4() {
        store(ctx, &toa::option_v4(kind as u8, client))
    } else {
        store(ctx, &toa::option_v6(kind as u8, client))
    };
    if !stored {
        return count(Counter::CarryNoRoom);
    }
    count(Counter::CarriedToa);
    if let Some(tag) = tag::option(client, isn(ctx))
        && !store(ctx, &tag)
    {
        count(Counter::CarryUnsigned);
    }
}

/// The sequence number of the SYN that is being sent.
#[inline(always)]
fn isn(ctx: &SockOpsContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.ops).snd_una }
}

#[inline(always)]
fn store<const N: usize>(ctx: &SockOpsContext, option: &[u8; N]) -> bool {
    // SAFETY: the option lives on the stack and has the length that is passed.
    unsafe { bpf_store_hdr_opt(ctx.as_ptr().cast(), option.as_ptr().cast(), N as u32, 0) == 0 }
}

/// A connection is made: its further segments are not wanted.
#[inline(always)]
pub(crate) fn connected(ctx: &SockOpsContext) {
    let flags = ctx.cb_flags();
    if flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG != 0 {
        let _ = ctx.set_cb_flags((flags & !BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG) as i32);
    }
}

/// The client of a connection whose sender's port is `port` on the wire. A proxy that names no port
/// leaves it to the kernel, as if it had spoofed the address.
#[inline(always)]
pub(crate) fn named_by(claim: &Claim, port: u16) -> Endpoint {
    let port = match claim.client.port {
        0 => port,
        port => port,
    };
    Endpoint::new(claim.client.address, port)
}

#[inline(always)]
fn claim(ctx: &SockOpsContext) -> Option<Claim> {
    CLAIMS
        .get(sockops::socket(ctx)?)
        .filter(|claim| claim.evidence != 0)
}
