//! Reads the PROXY header at the beginning of a segment's payload.

use agent_common::{
    Claim,
    proxy::{
        V1_MAX,
        line::{self, ROOM},
        v2::{Family, PREFIX, Prefix, TCP4, TCP6, tcp4, tcp6},
    },
    unwrap::{Refusal, Versions},
};
use aya_ebpf::{
    helpers::generated::bpf_skb_load_bytes, macros::map, maps::PerCpuArray, programs::TcContext,
};

use super::{Incoming, tlvs};

/// The line that this CPU reads. It would take too much of the stack.
#[map]
static LINE: PerCpuArray<[u8; ROOM]> = PerCpuArray::with_max_entries(1, 0);

/// Reads the header at the beginning of the payload: how long it is, and what `claim` says for whom the
/// sender speaks. It is the client itself as long as the header names none.
#[inline(always)]
pub(super) fn read(
    ctx: &TcContext,
    incoming: &Incoming,
    claim: &mut Claim,
) -> Result<u32, Refusal> {
    // Which version it is, the first byte tells.
    let refused = match load::<1>(ctx, incoming.payload_at())? {
        [b'\r'] if incoming.versions.has(Versions::V2) => binary(ctx, incoming, claim),
        [b'P'] if incoming.versions.has(Versions::V1) => text(ctx, incoming, claim),
        [b'\r' | b'P'] => return Err(Refusal::Invalid),
        _ => return Err(Refusal::NoHeader),
    };
    match Refusal::from_u32(refused) {
        Some(refusal) => Err(refusal),
        None => {
            claim.header = tlvs::read(ctx)?;
            Ok(tlvs::length())
        }
    }
}

/// What a function with a stack of its own can return. The header's length is where the TLVs are looked for.
#[inline(always)]
pub(super) fn number(outcome: Result<(), Refusal>) -> u32 {
    match outcome {
        Ok(()) => 0,
        Err(refusal) => refusal as u32,
    }
}

/// Version 2.
#[inline(never)]
fn binary(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> u32 {
    number(read_binary(ctx, incoming, claim))
}

#[inline(always)]
fn read_binary(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> Result<(), Refusal> {
    if incoming.payload < PREFIX {
        return Err(Refusal::Split);
    }
    let start = incoming.payload_at();
    let prefix = Prefix::read(&load::<PREFIX>(ctx, start)?)?;
    let length = prefix.len();
    if incoming.payload < length {
        return Err(Refusal::Split);
    }
    tlvs::follow(
        start,
        length,
        PREFIX + prefix.family.len(),
        prefix.is_local || prefix.family.is_empty(),
    );
    let addresses = start + PREFIX;
    let ends = match prefix.family {
        _ if prefix.is_local => return Ok(()),
        Family::Tcp4 => tcp4(&load::<TCP4>(ctx, addresses)?)?,
        Family::Tcp6 => tcp6(&load::<TCP6>(ctx, addresses)?)?,
        Family::Unspecified | Family::Other(_) => return Ok(()),
    };
    claim.client = ends.source;
    claim.original_dst = ends.destination;
    Ok(())
}

/// Version 1.
#[inline(never)]
fn text(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> u32 {
    number(read_text(ctx, incoming, claim))
}

#[inline(always)]
fn read_text(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> Result<(), Refusal> {
    let room = LINE.get_ptr_mut(0).ok_or(Refusal::Invalid)?;
    // SAFETY: a slot of this CPU, on which one packet at a time arrives.
    let bytes = unsafe { &mut *room };
    *bytes = [0; ROOM];
    let length = incoming.payload.clamp(1, V1_MAX);
    // SAFETY: the room is longer than any line; the context is valid while the program runs.
    let error = unsafe {
        let at = incoming.payload_at() as u32;
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            at,
            bytes.as_mut_ptr().cast(),
            length as u32,
        )
    };
    if error != 0 {
        return Err(Refusal::Invalid);
    }
    let line = line::read(bytes, length)?.ok_or(Refusal::Split)?;
    if let Some(ends) = line.ends {
        claim.client = ends.source;
        claim.original_dst = ends.destination;
    }
    tlvs::follow(0, line.len, line.len, true);
    Ok(())
}

/// `N` bytes of the packet.
#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, at: usize) -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    // SAFETY: the buffer has the length that is passed; the context is valid while the program runs.
    let error = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            at as u32,
            bytes.as_mut_ptr().cast(),
            N as u32,
        )
    };
    if error == 0 {
        Ok(bytes)
    } else {
        Err(Refusal::Invalid)
    }
}
