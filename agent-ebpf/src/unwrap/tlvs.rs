//! Reads what a header of version 2 holds behind the addresses, and hands it to the agent.

use core::slice::from_raw_parts;

use agent_common::{
    event::Header,
    global,
    proxy::{block, v2::PREFACE},
    unwrap::Refusal,
};
use aya_ebpf::{helpers::generated::bpf_get_smp_processor_id, macros::map, programs::TcContext};

use crate::{
    kernel::{bytes::copy, clock::boottime},
    maps::Scratch,
    tell,
};

/// How many bits of a header's number tell the CPU.
const CPU_BITS: u32 = 12;

/// The header that this CPU reads.
#[repr(C)]
struct Last {
    /// Where the header is in the packet, how long it is, and where in it TLVs begin.
    at: usize,
    length: usize,
    start: usize,
    /// Not zero if what follows the addresses need not be TLVs.
    is_free: usize,
    header: Header,
}

#[map]
static LAST: Scratch<Last> = Scratch::new();

/// Says which header [`read`] is to read.
#[inline(always)]
pub(super) fn follow(at: usize, length: usize, start: usize, is_free: bool) {
    if let Some(last) = LAST.get() {
        (last.at, last.length, last.start) = (at, length, start);
        last.is_free = is_free.into();
    }
}

/// Reads the TLVs. Returns the header's number if it says anything besides addresses, or else 0.
#[inline(always)]
pub(super) fn read(ctx: &TcContext) -> Result<u64, Refusal> {
    let last = LAST.get().ok_or(Refusal::Invalid)?;
    last.header.number = 0;
    let length = last.length;
    if length <= last.start {
        return Ok(0);
    }
    if length > block::MAX {
        return Err(Refusal::Split);
    }
    // It is no shorter, as TLVs begin behind the preface, but Linux 6.1 does not learn from `start` that what is copied
    // is not empty.
    if length < PREFACE {
        return Err(Refusal::Invalid);
    }
    if !copy(&ctx.skb, last.at, &mut last.header.bytes, length) {
        return Err(Refusal::Invalid);
    }
    match Refusal::from_u32(truepeer_tlvs()) {
        Some(refusal) => Err(refusal),
        // `truepeer_tlvs` has had the header since.
        None => Ok(LAST.get().map_or(0, |last| last.header.number)),
    }
}

/// How long the header is.
#[inline(always)]
pub(super) fn length() -> u32 {
    LAST.get().map_or(0, |last| last.length as u32)
}

global! {
    /// Checks the TLVs and numbers the header if they say anything. Returns the refusal as its number.
    fn truepeer_tlvs() -> u32 {
        Refusal::number(check())
    }
}

#[inline(always)]
fn check() -> Result<(), Refusal> {
    let last = LAST.get().ok_or(Refusal::Invalid)?;
    let Last {
        length,
        start,
        is_free,
        ..
    } = *last;
    if block::check(&mut last.header.bytes, start, length, is_free != 0)? {
        // In units of 16 ns: no CPU reads two headers in one.
        let now = boottime() >> 4;
        // SAFETY: a helper without arguments.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        last.header.number = now << CPU_BITS | u64::from(cpu);
    }
    Ok(())
}

/// Hands the header that was read to the agent. `false` if there was no room.
#[inline(never)]
pub(super) fn report() -> bool {
    let Some(last) = LAST.get() else { return false };
    let length = size_of::<u64>() + (last.length & (block::ROOM - 1));
    // SAFETY: the header is longer than that.
    tell::header(unsafe { from_raw_parts((&raw const last.header).cast::<u8>(), length) })
}
