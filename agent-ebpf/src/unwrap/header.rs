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
    tlvs::follow(0, 0, 0, true);
    // Which version it is, the first byte tells.
    let outcome = match load::<1>(ctx, incoming.payload_at())? {
        [b'\r'] if incoming.versions.has(Versions::V2) => binary(ctx, incoming, claim),
        [b'P'] if incoming.versions.has(Versions::V1) => text(ctx, incoming, claim),
        [b'\r' | b'P'] => return Err(Refusal::Invalid),
        _ => return Err(Refusal::NoHeader),
    };
    match Refusal::from_u32((outcome >> 32) as u32) {
        None => Ok(outcome as u32),
        Some(refusal) => Err(refusal),
    }
}

/// What a function with a stack of its own can return: the length and, in the upper half, the refusal.
#[inline(always)]
fn number(outcome: Result<u32, Refusal>) -> u64 {
    match outcome {
        Ok(length) => length.into(),
        Err(refusal) => (refusal as u64) << 32,
    }
}

/// Version 2.
#[inline(never)]
fn binary(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> u64 {
    number(read_binary(ctx, incoming, claim))
}

#[inline(always)]
fn read_binary(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> Result<u32, Refusal> {
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
        _ if prefix.is_local => return Ok(length as u32),
        Family::Tcp4 => tcp4(&load::<TCP4>(ctx, addresses)?)?,
        Family::Tcp6 => tcp6(&load::<TCP6>(ctx, addresses)?)?,
        Family::Unspecified | Family::Other(_) => return Ok(length as u32),
    };
    claim.client = ends.source;
    claim.original_dst = ends.destination;
    Ok(length as u32)
}

/// Version 1.
#[inline(never)]
fn text(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> u64 {
    number(read_text(ctx, incoming, claim))
}

#[inline(always)]
fn read_text(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> Result<u32, Refusal> {
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
    Ok(line.len as u32)
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
