//! The header of a SYN, made anew.

use core::ptr::read_volatile;

use agent_common::{
    options::{self, HEADER_ROOM},
    toa,
};
use aya_ebpf::{
    bindings::BPF_F_PSEUDO_HDR,
    helpers::generated::{bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_change_tail},
    macros::map,
    maps::PerCpuArray,
    programs::TcContext,
};
use network_types::tcp::TcpHdr;

use super::Syn;
use crate::packet::{load, set_length, write};

/// Longest TCP header.
const MAX_HEADER: usize = 60;
/// Offset in the TCP header.
const CHECKSUM: usize = 16;

#[map]
static HEADERS: PerCpuArray<Headers> = PerCpuArray::with_max_entries(1, 0);

/// A TCP header as it came in and as it goes on, zeros behind. They would take too much of the stack.
#[repr(C, align(8))]
pub(super) struct Headers {
    pub(super) old: [u8; HEADER_ROOM],
    pub(super) new: [u8; HEADER_ROOM],
}

impl Headers {
    const EMPTY: Self = Self {
        old: [0; HEADER_ROOM],
        new: [0; HEADER_ROOM],
    };
}

impl Syn {
    /// The header, and none yet for it to become.
    #[inline(always)]
    pub(super) fn headers(&self, ctx: &TcContext) -> Option<&'static mut Headers> {
        // SAFETY: a slot of this CPU, on which one packet at a time arrives.
        let headers = unsafe { &mut *HEADERS.get_ptr_mut(0)? };
        *headers = Headers::EMPTY;
        load(ctx, self.offset, &mut headers.old, bounded(self.header)?).then_some(headers)
    }

    /// Appends what tells the sender to the options that end at `end`; where they end now. `None`: there is no
    /// room.
    #[inline(always)]
    pub(super) fn tell(
        &self,
        header: &mut [u8; HEADER_ROOM],
        end: usize,
        kind: u8,
    ) -> Option<usize> {
        // A header cannot grow into the payload (TCP Fast Open).
        let room = if self.has_payload {
            self.header
        } else {
            MAX_HEADER
        };
        let length = if self.v6 { toa::LEN_V6 } else { toa::LEN_V4 };
        if end + usize::from(length) > room {
            return None;
        }
        Some(if self.v6 {
            options::append(header, end, &toa::option_v6(kind, self.source))
        } else {
            options::append(header, end, &toa::option_v4(kind, self.source))
        })
    }

    /// Writes the new header, whose options end at `end`, over the old one.
    #[inline(always)]
    pub(super) fn write(&self, ctx: &TcContext, headers: &mut Headers, end: usize) -> bool {
        let length = if self.has_payload {
            self.header
        } else {
            (end + 3) & !3
        };
        let Headers { old, new } = headers;
        new[12] = (length as u8 / 4) << 4 | old[12] & 0x0f;
        let skb = ctx.skb.skb;
        // SAFETY: the context is valid while the program runs.
        if length != self.header
            && unsafe { bpf_skb_change_tail(skb, (self.offset + length) as u32, 0) } != 0
        {
            return false;
        }
        if !bounded(length).is_some_and(|length| write(ctx, self.offset, new, length, 0)) {
            return false;
        }
        let checksum = (self.offset + CHECKSUM) as u32;
        let of_length = |length: usize| u64::from((length as u16).to_be());
        // Where the device is to make the checksum, it is that of the pseudo header (RFC 9293, 3.1) so far, of
        // which the length is a part.
        let pseudo = u64::from(BPF_F_PSEUDO_HDR) | size_of::<u16>() as u64;
        // SAFETY: as above; both headers have the length that is passed.
        let is_summed = unsafe {
            let size = HEADER_ROOM as u32;
            let (from, to) = (old.as_mut_ptr().cast(), new.as_mut_ptr().cast());
            let difference = bpf_csum_diff(from, size, to, size, 0);
            bpf_l4_csum_replace(skb, checksum, 0, difference as u64, 0) == 0
                && (length == self.header
                    || bpf_l4_csum_replace(
                        skb,
                        checksum,
                        of_length(self.header),
                        of_length(length),
                        pseudo,
                    ) == 0)
        };
        if length != self.header {
            set_length(ctx, self.v6, self.offset, length);
        }
        is_summed
    }
}

/// The length, if a TCP header can have it. LLVM would compare the difference to the least length, and the
/// verifier not know what that says of the length: the volatile read makes the difference come first.
#[inline(always)]
fn bounded(length: usize) -> Option<usize> {
    let options = length.wrapping_sub(TcpHdr::LEN);
    // SAFETY: a reference is valid for reads.
    let options = unsafe { read_volatile(&options) };
    (options <= MAX_HEADER - TcpHdr::LEN).then_some(options + TcpHdr::LEN)
}
