//! Reads the PROXY header at the beginning of a segment's payload.

use agent_common::{
    Claim, global,
    proxy::{
        Endpoints, V1_MAX,
        line::{self, Fields, ROOM},
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

/// The line that this CPU reads. On the stack it would take too much room.
#[repr(C)]
struct Text {
    /// As much of the line as has arrived, then zeros.
    bytes: [u8; ROOM],
    /// How many bytes have arrived.
    length: usize,
    /// The length of the line.
    read: usize,
    /// Not zero if it names a client.
    names: usize,
    ends: Endpoints,
    /// Room to read it in.
    fields: Fields,
}

#[map]
static TEXT: Scratch<Text> = Scratch::new();

/// Reads the header at the beginning of the payload and returns its length. If it names a client, `claim`
/// becomes that client's, and is no longer pending.
#[inline(always)]
pub(super) fn read(
    ctx: &TcContext,
    incoming: &Incoming,
    claim: &mut Claim,
) -> Result<u32, Refusal> {
    // The first byte tells the version.
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

/// Reads a header of version 2. Returns the refusal as its number, the only result that a function with a
/// stack of its own can have.
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
    names(claim, ends);
    Ok(())
}

/// The header names a client.
#[inline(always)]
fn names(claim: &mut Claim, ends: Endpoints) {
    claim.client = ends.source;
    claim.original_dst = ends.destination;
    claim.is_pending = 0;
}

/// Reads a header of version 1. Returns the refusal as its number.
#[inline(never)]
fn text(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> u32 {
    Refusal::number(read_text(ctx, incoming, claim))
}

#[inline(always)]
fn read_text(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> Result<(), Refusal> {
    let text = TEXT.get().ok_or(Refusal::Invalid)?;
    text.bytes = [0; ROOM];
    if incoming.payload < line::SIGNATURE {
        return Err(Refusal::NoHeader);
    }
    text.length = incoming.payload.min(V1_MAX);
    if !copy(
        &ctx.skb,
        incoming.payload_at(),
        &mut text.bytes,
        text.length,
    ) {
        return Err(Refusal::Invalid);
    }
    if let Some(refusal) = Refusal::from_u32(truepeer_line()) {
        return Err(refusal);
    }
    // `truepeer_line` has had the line since.
    let text = TEXT.get().ok_or(Refusal::Invalid)?;
    if text.names != 0 {
        names(claim, text.ends);
    }
    tlvs::follow(0, text.read, text.read, true);
    Ok(())
}

global! {
    /// Parses [`TEXT`]; the refusal as its number.
    fn truepeer_line() -> u32 {
        Refusal::number(parse())
    }
}

#[inline(always)]
fn parse() -> Result<(), Refusal> {
    let text = TEXT.get().ok_or(Refusal::Invalid)?;
    let line = line::read(&text.bytes, text.length, &mut text.fields)?.ok_or(Refusal::Split)?;
    text.read = line.len;
    text.names = line.ends.is_some().into();
    if let Some(ends) = line.ends {
        text.ends = ends;
    }
    Ok(())
}
