//! carry: what a local proxy says about its client goes with the SYN, to a socket of this host through
//! `HANDOVERS` and to the destinations of `[carry.toa]` as a TCP option.

pub(crate) mod leave;
pub(crate) mod node;
pub(crate) mod source;
mod unreadable;

use agent_common::{Claim, Counter, Syn, node::Voucher, toa};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG},
    helpers::generated::{bpf_reserve_hdr_opt, bpf_store_hdr_opt},
    programs::SockOpsContext,
};

use crate::{
    kernel::context::SockOps as _,
    learn::{snat, tag, trust},
    maps::{CARRY, CLAIMS, HANDOVERS, longest_match},
    tell::count,
};

/// A socket begins to connect. If it speaks for a client, its SYN is of interest.
#[inline(always)]
pub(crate) fn connects(ctx: &SockOpsContext) {
    if claim(ctx).is_some() {
        ctx.call_for(BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
    }
}

/// Notes the SYN before it is sent, and reserves room for its options.
#[inline(never)]
pub(crate) fn sends(ctx: &SockOpsContext) {
    let Some(mut claim) = claim(ctx) else {
        return;
    };
    // Whoever believes the process need not ask where the answer goes.
    claim.conditions |= Claim::CONFIRMED;
    let syn = Syn {
        source: ctx.local(),
        destination: ctx.remote(),
        isn: ctx.snd_una(),
    };
    let _ = HANDOVERS.insert(syn, claim, BPF_ANY.into());
    if !is_carried(&claim) {
        return;
    }
    let Some(kind) = longest_match(&CARRY, syn.destination.address) else {
        return;
    };
    let client = claim.client_behind(syn.source.port);
    if toa::is_ambiguous(kind as u8, client.port) {
        return count(Counter::ToaAmbiguous);
    }
    let length = if client.address.is_v4() {
        toa::LEN_V4
    } else {
        toa::LEN_V6
    };
    if !reserve(ctx, length) {
        count(Counter::CarryNoRoom);
    } else if tag::is_wanted() {
        // A tag that does not fit is counted when it cannot be written.
        reserve(ctx, agent_common::tag::LEN);
    }
}

#[inline(always)]
fn reserve(ctx: &SockOpsContext, length: u8) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { bpf_reserve_hdr_opt(ctx.as_ptr().cast(), length.into(), 0) == 0 }
}

/// Writes the options for which room was reserved.
#[inline(never)]
pub(crate) fn writes(ctx: &SockOpsContext) {
    let Some(claim) = claim(ctx).filter(is_carried) else {
        return;
    };
    let Some(kind) = longest_match(&CARRY, ctx.remote().address) else {
        return;
    };
    let client = claim.client_behind(ctx.local().port);
    if toa::is_ambiguous(kind as u8, client.port) {
        return;
    }
    let stored = if client.address.is_v4() {
        store(ctx, &toa::option_v4(kind as u8, client))
    } else {
        store(ctx, &toa::option_v6(kind as u8, client))
    };
    if !stored {
        return count(Counter::CarryNoRoom);
    }
    count(Counter::CarriedToa);
    // Where the SYN leaves a node, nothing else tells that it was written here.
    let voucher = Voucher {
        source: ctx.local(),
        original_dst: claim.original_dst,
        rule: claim.rule,
        evidence: claim.evidence,
        ..Voucher::default()
    };
    snat::vouch(&client, ctx.snd_una(), &voucher);
    if let Some(tag) = tag::sign(client, ctx.snd_una())
        && !store(ctx, &tag)
    {
        count(Counter::CarryUnsigned);
    }
}

#[inline(always)]
fn store<const N: usize>(ctx: &SockOpsContext, option: &[u8; N]) -> bool {
    // SAFETY: the option lives on the stack and has the length that is passed.
    unsafe { bpf_store_hdr_opt(ctx.as_ptr().cast(), option.as_ptr().cast(), N as u32, 0) == 0 }
}

/// A connection is established. Its further segments are of no interest.
#[inline(always)]
pub(crate) fn connected(ctx: &SockOpsContext) {
    let flags = ctx.cb_flags();
    if flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG != 0 {
        let _ = ctx.set_cb_flags((flags & !BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG) as i32);
    }
}

/// What the socket says about its client, if it names one and the connection may tell of it.
#[inline(always)]
fn claim(ctx: &SockOpsContext) -> Option<Claim> {
    let claim = CLAIMS.get(ctx.socket()?).filter(Claim::names_client)?;
    trust::concerns(&claim, ctx.remote().port).then_some(claim)
}

/// Whether other hosts are told, too.
#[inline(always)]
fn is_carried(claim: &Claim) -> bool {
    claim.conditions & Claim::CARRIED != 0
}
