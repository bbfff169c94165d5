//! Reads what a header of version 2 has behind the addresses, and hands it to the agent.

use core::slice::from_raw_parts;

use agent_common::{event::Header, proxy::block, unwrap::Refusal};
use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_skb_load_bytes},
    macros::map,
    maps::PerCpuArray,
    programs::TcContext,
};

use super::header::number;
use crate::maps::HEADERS;

/// How many bits of a header's number tell the CPU.
const CPU_BITS: u32 = 12;

/// The header that this CPU reads.
#[repr(C)]
struct Last {
    /// Always zero.
    zero: usize,
    /// Where it is in the packet, how long it is, and where in it TLVs begin.
    at: usize,
    length: usize,
    start: usize,
    /// Not zero if there need not be TLVs.
    is_free: usize,
    header: Header,
}

#[map]
static LAST: PerCpuArray<Last> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn last() -> Option<&'static mut Last> {
    let last = LAST.get_ptr_mut(0)?;
    // SAFETY: a slot of this CPU, on which one packet at a time arrives.
    Some(unsafe { &mut *last })
}

/// Says where the header is that [`read`] is to read.
#[inline(always)]
pub(super) fn follow(at: usize, length: usize, start: usize, is_free: bool) {
    if let Some(last) = last() {
        (last.at, last.length, last.start) = (at, length, start);
        last.is_free = is_free.into();
    }
}

/// Reads the TLVs, if there are any: the header's number, if it says anything besides addresses; else 0.
#[inline(always)]
pub(super) fn read(ctx: &TcContext) -> Result<u64, Refusal> {
    let last = last().ok_or(Refusal::Invalid)?;
    last.header.number = 0;
    let length = last.length;
    if length <= last.start {
        return Ok(0);
    }
    if length > block::MAX {
        return Err(Refusal::Split);
    }
    // SAFETY: the room is longer than any such header; the context is valid while the program runs.
    let error = unsafe {
        let to = last.header.bytes.as_mut_ptr().cast();
        bpf_skb_load_bytes(ctx.skb.skb.cast(), last.at as u32, to, length as u32)
    };
    if error != 0 {
        return Err(Refusal::Invalid);
    }
    match Refusal::from_u32(truepeer_tlvs()) {
        Some(refusal) => Err(refusal),
        None => Ok(last.header.number),
    }
}

/// How long the header is.
#[inline(always)]
pub(super) fn length() -> u32 {
    last().map_or(0, |last| last.length as u32)
}

/// Checks the TLVs, and numbers the header if they say anything; the refusal as its number. A global function,
/// which the verifier goes through by itself, and not for each way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn truepeer_tlvs() -> u32 {
    number(check())
}

#[inline(always)]
fn check() -> Result<(), Refusal> {
    let last = last().ok_or(Refusal::Invalid)?;
    let Last {
        zero,
        length,
        start,
        is_free,
        ..
    } = *last;
    if block::check(&mut last.header.bytes, start, length, is_free != 0, zero)? {
        // SAFETY: helpers without arguments.
        let (now, cpu) = unsafe { (bpf_ktime_get_boot_ns(), bpf_get_smp_processor_id()) };
        // In units of 16 ns, in which no CPU reads two.
        last.header.number = now >> 4 << CPU_BITS | u64::from(cpu);
    }
    Ok(())
}

/// Hands the header that was read to the agent. `false`: there was no room.
#[inline(never)]
pub(super) fn tell() -> bool {
    let Some(last) = last() else { return false };
    let length = size_of::<u64>() + (last.length & (block::ROOM - 1));
    // SAFETY: the header is longer than that.
    let record = unsafe { from_raw_parts((&raw const last.header).cast::<u8>(), length) };
    // The agent looks every now and then, and when it is asked.
    let flags = BPF_RB_NO_WAKEUP.into();
    HEADERS.output::<[u8]>(record, flags).is_ok()
}
