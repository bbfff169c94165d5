//! What a server sends: acknowledges bytes that its sender knows of.

use agent_common::options::{self, HEADER_ROOM};
use aya_ebpf::{
    bindings::tcx_action_base::TCX_NEXT, helpers::generated::bpf_skb_load_bytes,
    programs::TcContext,
};

use super::{connection, translate, versions};
use crate::{
    maps::{LINGERING, TRANSLATED, UNWRAPPING},
    packet::{self, ACK, RST, SYN, Segment, Tcp},
};

/// TCP's option for selective acknowledgments (RFC 2018).
const SACK: u8 = 5;
/// Bytes of an edge of a block, and most blocks of an option.
const EDGE: usize = 4;
const BLOCKS: usize = 4;
/// Where a TCP header's options begin.
const OPTIONS: usize = 20;

/// One packet at tc egress; the action for it.
#[inline(always)]
pub(crate) fn packet(ctx: &TcContext) -> i32 {
    let Some(segment) = packet::read(ctx) else {
        return TCX_NEXT;
    };
    let (source, destination) = (segment.source(), segment.destination());
    if versions(ctx, source.port).is_none() {
        return TCX_NEXT;
    }
    let tcp = segment.tcp();
    if !tcp.has(ACK) {
        return TCX_NEXT;
    }
    let connection = connection(destination, source);
    if tcp.has(SYN) || tcp.has(RST) {
        // SAFETY: values are never changed in place; so below.
        if let Some(handshake) = unsafe { UNWRAPPING.get(connection) }
            && handshake.is_read == 0
            && tcp.acknowledgment == handshake.first()
        {
            acknowledges(ctx, &segment, &tcp, handshake.shift.into());
            return TCX_NEXT;
        }
    }
    let delta = unsafe {
        TRANSLATED
            .get(connection)
            .or_else(|| LINGERING.get(connection))
    };
    if let Some(delta) = delta {
        acknowledges(ctx, &segment, &tcp, *delta);
        if tcp.length > OPTIONS {
            selectively(ctx, &segment, &tcp, *delta);
        }
    }
    TCX_NEXT
}

#[inline(always)]
fn acknowledges(ctx: &TcContext, segment: &Segment, tcp: &Tcp, delta: i32) {
    translate::acknowledgment(ctx, segment.offset, tcp.acknowledgment, delta);
}

/// The edges of the blocks that the server has got out of order.
#[inline(always)]
fn selectively(ctx: &TcContext, segment: &Segment, tcp: &Tcp, delta: i32) {
    let mut header = [0; HEADER_ROOM];
    if !(OPTIONS..HEADER_ROOM).contains(&tcp.length) {
        return;
    }
    // SAFETY: the buffer is longer than what is read; the context is valid while the program runs.
    let error = unsafe {
        let to = header.as_mut_ptr().cast();
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            segment.offset as u32,
            to,
            tcp.length as u32,
        )
    };
    let (number, at) = options::find(&header, |kind, _| usize::from(kind == SACK));
    if error != 0 || number != 1 {
        return;
    }
    let end = at + usize::from(options::byte(&header, at + 1));
    for edge in 0..2 * BLOCKS {
        let field = at + 2 + edge * EDGE;
        if field + EDGE > end {
            break;
        }
        let old = u32::from_be(options::word(&header, field));
        translate::replace(
            ctx,
            segment.offset,
            field,
            old,
            old.wrapping_sub(delta as u32),
        );
    }
}
