//! Reads the PROXY header at the beginning of a segment's payload.

use agent_common::{
    Claim,
    proxy::{
        V1_MAX,
        line::{self, ROOM},
        v2::{Family, PREFACE, Preface, tcp4, tcp6},
    },
    unwrap::{Refusal, Versions},
};
use aya_ebpf::{macros::map, programs::TcContext};

use super::{incoming::Incoming, tlvs};
use crate::{
    kernel::bytes::{Bytes as _, copy},
    maps::Scratch,
};

/// The line that this CPU reads. It would take too much of the stack.
#[map]
static LINE: Scratch<[u8; ROOM]> = Scratch::new();

/// Reads the header at the beginning of the payload: how long it is, and what `claim` says for whom the
/// sender speaks. It is the client itself as long as the header names none.
#[inline(always)]
pub(super) fn read(
    ctx: &TcContext,
    incoming: &Incoming,
    claim: &mut Claim,
) -> Result<u32, Refusal> {
    // Which version it is, the first byte tells.
    let first = ctx.skb.read(incoming.payload_at());
    let refused = match first.ok_or(Refusal::Invalid)? {
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

/// Version 2; the refusal as its number, as a function with a stack of its own returns nothing else.
#[inline(never)]
fn binary(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> u32 {
    Refusal::number(read_binary(ctx, incoming, claim))
}

#[inline(always)]
fn read_binary(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> Result<(), Refusal> {
    if incoming.payload < PREFACE {
        return Err(Refusal::Split);
    }
    let start = incoming.payload_at();
    let preface = Preface::read(&ctx.skb.read(start).ok_or(Refusal::Invalid)?)?;
    let length = preface.len();
    if incoming.payload < length {
        return Err(Refusal::Split);
    }
    tlvs::follow(
        start,
        length,
        PREFACE + preface.family.len(),
        preface.is_local || preface.family.is_empty(),
    );
    let addresses = start + PREFACE;
    let ends = match preface.family {
        _ if preface.is_local => return Ok(()),
        Family::Tcp4 => tcp4(&ctx.skb.read(addresses).ok_or(Refusal::Invalid)?)?,
        Family::Tcp6 => tcp6(&ctx.skb.read(addresses).ok_or(Refusal::Invalid)?)?,
        Family::Unspecified | Family::Other(_) => return Ok(()),
    };
    claim.client = ends.source;
    claim.original_dst = ends.destination;
    Ok(())
}

/// Version 1; the refusal as its number.
#[inline(never)]
fn text(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> u32 {
    Refusal::number(read_text(ctx, incoming, claim))
}

#[inline(always)]
fn read_text(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> Result<(), Refusal> {
    let bytes = LINE.get().ok_or(Refusal::Invalid)?;
    *bytes = [0; ROOM];
    let length = incoming.payload.clamp(1, V1_MAX);
    if !copy(&ctx.skb, incoming.payload_at(), bytes, length) {
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
