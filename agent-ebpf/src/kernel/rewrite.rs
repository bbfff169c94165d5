//! The TCP header of a SYN or of its answer, read and replaced.
//!
//! Neither has a payload, so its header can be rebuilt at the packet's end.

use core::ptr::read_volatile;

use agent_common::tcp::{HEADER_ROOM, Header, MAX_HEADER};
use aya_ebpf::{
    bindings::BPF_F_PSEUDO_HDR,
    helpers::generated::{bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_change_tail},
    macros::map,
    programs::TcContext,
};
use network_types::tcp::TcpHdr;

use super::{
    bytes::{copy, write},
    ip::set_length,
    packet::Segment,
    tcp::{CHECKSUM, LENGTH},
};
use crate::maps::Scratch;

#[map]
static TCP_HEADERS: Scratch<Headers> = Scratch::new();

/// A TCP header as it came in and as it goes on, each followed by zeros. On the stack they would take too
/// much room.
#[repr(C, align(8))]
pub(crate) struct Headers {
    pub(crate) old: Header,
    pub(crate) new: Header,
}

impl Headers {
    const EMPTY: Self = Self {
        old: [0; HEADER_ROOM],
        new: [0; HEADER_ROOM],
    };

    /// This CPU's, with the header of the segment.
    #[inline(always)]
    pub(crate) fn read(ctx: &TcContext, segment: &Segment) -> Option<&'static mut Self> {
        let headers = TCP_HEADERS.get()?;
        *headers = Self::EMPTY;
        let length = bounded(segment.tcp.length)?;
        copy(&ctx.skb, segment.offset, &mut headers.old, length).then_some(headers)
    }
}

/// The length, if a TCP header can have it. LLVM would check the range on a shifted copy, from which the
/// verifier learns nothing about the length: the volatile read makes the shifted value the one that is used.
#[inline(always)]
fn bounded(length: usize) -> Option<usize> {
    let options = length.wrapping_sub(TcpHdr::LEN);
    // SAFETY: a reference is valid for reads.
    let options = unsafe { read_volatile(&options) };
    (options <= MAX_HEADER - TcpHdr::LEN).then_some(options + TcpHdr::LEN)
}

/// Replaces the packet's TCP header by the new one, which is to have this length.
#[inline(always)]
pub(crate) fn rewrite(
    ctx: &TcContext,
    segment: &Segment,
    headers: &mut Headers,
    length: usize,
) -> bool {
    let old_length = segment.tcp.length;
    let Headers { old, new } = headers;
    new[LENGTH] = (length as u8 / 4) << 4 | old[LENGTH] & 0x0f;
    let skb = ctx.skb.skb;
    if length != old_length {
        // SAFETY: a helper that takes this context.
        let error = unsafe { bpf_skb_change_tail(skb, (segment.offset + length) as u32, 0) };
        if error != 0 {
            return false;
        }
    }
    if !bounded(length).is_some_and(|length| write(&ctx.skb, segment.offset, new, length, 0)) {
        return false;
    }
    let checksum = (segment.offset + CHECKSUM) as u32;
    let of_length = |length: usize| u64::from((length as u16).to_be());
    // If the device is to compute the checksum, the field holds that of the pseudo header (RFC 9293, 3.1), of
    // which the length is a part.
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | size_of::<u16>() as u64;
    let (from, to) = (of_length(old_length), of_length(length));
    // SAFETY: both headers have the length that is passed.
    let is_summed = unsafe {
        let size = HEADER_ROOM as u32;
        let (old, new) = (old.as_mut_ptr().cast(), new.as_mut_ptr().cast());
        let difference = bpf_csum_diff(old, size, new, size, 0);
        bpf_l4_csum_replace(skb, checksum, 0, difference as u64, 0) == 0
            && (length == old_length || bpf_l4_csum_replace(skb, checksum, from, to, pseudo) == 0)
    };
    if length != old_length {
        set_length(ctx, segment.is_v6, segment.offset, length);
    }
    is_summed
}
