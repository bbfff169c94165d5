//! learn from TOA: an option on the SYN tells the client of the load balancer that sent it.
//!
//! The option is read when the SYN is answered, when the kernel shows it even if it keeps nothing of the SYN
//! (SYN cookies). What it says waits in `HANDOVERS` for the end of the handshake.

use agent_common::{
    Claim, Counter, Endpoint, Evidence, Syn,
    kernel::Version,
    node::Voucher,
    options,
    tcp::{HEADER_ROOM, Header},
    toa::{Kinds, Toa},
    trust::{Sender, Statement},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG},
    cty::c_void,
    helpers::generated::{bpf_getsockopt, bpf_setsockopt},
    programs::SockOpsContext,
};

use super::{snat, tag, trust};
use crate::{
    kernel::{
        context::SockOps as _,
        uapi::{SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, TCP_BPF_SYN},
    },
    maps::{HANDOVERS, Replaced as _, TOA, kernel_has},
    tell::count,
};

/// A socket begins to listen. The SYNs that it answers are of interest.
#[inline(always)]
pub(crate) fn listens(ctx: &SockOpsContext) {
    if is_read_in_answers() {
        ctx.call_for(BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
    }
}

/// Asks for the SYNs that an older listener answers. `sk` is a socket of the TCP iterator.
#[inline(always)]
pub(crate) fn adopts(sk: *mut c_void) {
    if !is_read_in_answers() {
        return;
    }
    let mut flags = 0_u32;
    let value = (&raw mut flags).cast::<c_void>();
    let size = size_of::<u32>() as i32;
    // SAFETY: a socket of the iterator, which holds it locked; the value has the size that is passed.
    unsafe {
        if bpf_getsockopt(sk, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, value, size) == 0 {
            *value.cast::<u32>() |= BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
            bpf_setsockopt(sk, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, value, size);
        }
    }
}

/// What is taken for TOA, if anything is.
#[inline(always)]
pub(crate) fn kinds() -> Option<&'static Kinds> {
    TOA.get(0).filter(|kinds| !kinds.is_empty())
}

/// Whether TOA is read when a SYN is answered. Where that cannot be asked for on behalf of all listeners, `hear` reads
/// it, so that nothing is read or counted twice.
#[inline(always)]
fn is_read_in_answers() -> bool {
    kernel_has(Version::ITERATOR_ASKS_FOR_SYNS) && kinds().is_some()
}

/// Reads the SYN that is being answered.
#[inline(never)]
pub(crate) fn answers(ctx: &SockOpsContext) {
    let mut header = [0; HEADER_ROOM];
    // The helper copies the TCP header without the IP header and clears the rest (Linux 5.10).
    // SAFETY: the buffer has the length that is passed; the context is valid while the program runs.
    let length = unsafe {
        bpf_getsockopt(
            ctx.as_ptr().cast(),
            SOL_TCP,
            TCP_BPF_SYN,
            header.as_mut_ptr().cast(),
            HEADER_ROOM as i32,
        )
    };
    if length >= 0 {
        hand_over(ctx, &header);
    }
}

/// Reads the SYN that has established a connection by itself, before it is answered (TCP Fast Open, RFC 7413).
#[inline(never)]
pub(crate) fn opens(ctx: &SockOpsContext) {
    if !is_read_in_answers() {
        return;
    }
    let mut header = [0; HEADER_ROOM];
    if ctx.copy_header(&mut header) {
        hand_over(ctx, &header);
    }
}

/// Leaves what TOA in the header of a SYN says, if it is to be believed, for the socket that will be accepted.
#[inline(always)]
fn hand_over(ctx: &SockOpsContext, header: &Header) {
    let Some(kinds) = kinds() else { return };
    let client = match options::toa(header, kinds) {
        Toa::Absent => return,
        Toa::Invalid => return count(Counter::ToaInvalid),
        Toa::Ambiguous => return count(Counter::ToaAmbiguous),
        Toa::Client(client) => client,
    };
    let syn = Syn {
        source: ctx.remote(),
        destination: ctx.local(),
        isn: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
    };
    if is_heard(&syn) {
        return;
    }
    let mut claim = Claim::default();
    match believe(header, kinds, client, &syn, &mut claim) {
        Ok(()) => drop(HANDOVERS.insert(&syn, &claim, BPF_ANY.into())),
        Err(reason) => count(reason),
    }
}

/// Whether unwrap has heard what TOA on this SYN says, before it changed the sequence number by which that is proven.
#[inline(always)]
pub(super) fn is_heard(syn: &Syn) -> bool {
    HANDOVERS
        .look_up(syn)
        .is_some_and(|claim| claim.is_pending != 0 && claim.evidence != 0)
}

/// Fills in `claim` with what TOA that names this client says, or returns why it is not to be believed. It is
/// believed if this node saw the SYN before its own NAT, or if the sender is trusted.
#[inline(always)]
pub(crate) fn believe(
    header: &Header,
    kinds: &Kinds,
    client: Endpoint,
    syn: &Syn,
    claim: &mut Claim,
) -> Result<(), Counter> {
    // What a local proxy says is for whoever trusts its host; only where that is this node itself, no rule can.
    let is_for_here = |v: &&Voucher| v.ifindex != 0 || snat::is_own(&syn.source.address);
    let Some(voucher) = snat::voucher(&client, syn).filter(is_for_here) else {
        return believe_hop(header, kinds, client, syn, claim);
    };
    // Whoever believes a local process need not ask where the answer goes.
    let conditions = if voucher.ifindex == 0 {
        Claim::CONFIRMED
    } else {
        0
    };
    *claim = Claim {
        client,
        original_dst: voucher.original_dst,
        rule: voucher.rule,
        evidence: voucher.evidence,
        conditions,
        ..Claim::default()
    };
    Ok(())
}

/// Whether a rule believes TOA of whoever sent the SYN, signed or not.
#[inline(always)]
pub(crate) fn is_of_hop(syn: &Syn) -> bool {
    hop(syn).is_some()
}

/// The hop that sent the SYN, and the rule that believes its TOA. This node's own addresses are no hop's, whatever a rule says
/// of them: any pod's connection can have been given one.
#[inline(always)]
fn hop(syn: &Syn) -> Option<(Sender, u32)> {
    if snat::is_own(&syn.source.address) {
        return None;
    }
    let sender = trust::sender(syn.source.address)?;
    let rule = trust::rule_for(&sender, Statement::Toa, syn.destination.port)?;
    Some((sender, rule))
}

/// Fills in `claim` with what TOA of another hop says, or returns why it is not to be believed.
#[inline(always)]
pub(crate) fn believe_hop(
    header: &Header,
    kinds: &Kinds,
    client: Endpoint,
    syn: &Syn,
    claim: &mut Claim,
) -> Result<(), Counter> {
    let (sender, rule) = hop(syn).ok_or(Counter::ToaUntrusted)?;
    *claim = Claim {
        client,
        rule,
        evidence: Evidence::Toa as u8,
        is_signed: sender.must_sign().into(),
        ..Claim::default()
    };
    if sender.must_sign() {
        tag::prove(header, kinds, syn, claim)
    } else {
        Ok(())
    }
}
