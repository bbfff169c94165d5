//! Reads the PROXY header at the beginning of a segment's payload.

use agent_common::{
    Claim,
    proxy::v2::{Family, PREFIX, Prefix, TCP4, TCP6, tcp4, tcp6},
    unwrap::{Refusal, Versions},
};
use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};

use super::Incoming;

/// Reads the header at the beginning of the payload: how long it is, and what `claim` says for whom the
/// sender speaks. It is the client itself as long as the header names none.
#[inline(always)]
pub(super) fn read(
    ctx: &TcContext,
    incoming: &Incoming,
    claim: &mut Claim,
) -> Result<u32, Refusal> {
    let outcome = read_apart(ctx, incoming, claim);
    let length = outcome as u32;
    match Refusal::from_u32((outcome >> 32) as u32) {
        None => Ok(length),
        Some(refusal) => Err(refusal),
    }
}

/// The same on a stack of its own, which takes a number as the outcome: the length and, in the upper half,
/// the refusal.
#[inline(never)]
fn read_apart(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> u64 {
    match parse(ctx, incoming, claim) {
        Ok(length) => length.into(),
        Err(refusal) => (refusal as u64) << 32,
    }
}

#[inline(always)]
fn parse(ctx: &TcContext, incoming: &Incoming, claim: &mut Claim) -> Result<u32, Refusal> {
    let (start, payload) = (incoming.offset + incoming.tcp.length, incoming.payload);
    if payload < PREFIX {
        // The shortest header of version 1 is a byte shorter, and names no client.
        return Err(match load::<1>(ctx, start)? {
            [b'\r' | b'P'] => Refusal::Split,
            _ => Refusal::NoHeader,
        });
    }
    if !incoming.versions.has(Versions::V2) {
        return Err(Refusal::Invalid);
    }
    let prefix = Prefix::read(&load::<PREFIX>(ctx, start)?)?;
    let length = prefix.len();
    if payload < length {
        return Err(Refusal::Split);
    }
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
