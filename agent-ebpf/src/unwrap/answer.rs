//! What a server sends: acknowledges bytes that its sender knows of.

use aya_ebpf::{
    bindings::tcx_action_base::TCX_NEXT, helpers::generated::bpf_skb_load_bytes,
    programs::TcContext,
};

use super::{connection, translate, versions};
use crate::{
    maps::{LINGERING, UNWRAPPING},
    packet::{self, ACK, RST, SYN, Segment, Tcp},
    socket::LIVE,
};

/// TCP options: padding, and selective acknowledgments (RFC 2018).
const NO_OPERATION: u8 = 1;
const SACK: u8 = 5;
/// Padding, kind and length of selective acknowledgments.
const HEAD: usize = 4;
/// Bytes of an edge of a block, and how many an option has at most.
const EDGE: usize = 4;
const EDGES: usize = 8;
/// Where a TCP header's options begin, and how long timestamps are with their padding.
const OPTIONS: usize = 20;
const TIMESTAMPS: usize = 12;

/// One packet at tc egress; the action for it.
#[inline(always)]
pub(crate) fn packet(ctx: &TcContext) -> i32 {
    let is_live = is_live(ctx);
    if is_live && !translate::any() {
        return TCX_NEXT;
    }
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
        // SAFETY: values are never changed in place.
        if let Some(handshake) = unsafe { UNWRAPPING.get(connection) }
            && tcp.acknowledgment == handshake.first()
        {
            acknowledges(ctx, &segment, &tcp, handshake.shift.into());
            return TCX_NEXT;
        }
    }
    let delta = match translate::delta(&connection) {
        // SAFETY: as above.
        None if !is_live => unsafe { LINGERING.get(connection) }.copied(),
        delta => delta,
    };
    if let Some(delta) = delta {
        acknowledges(ctx, &segment, &tcp, delta);
        if tcp.length > OPTIONS {
            selectively(ctx, &segment, &tcp, delta);
        }
    }
    TCX_NEXT
}

/// Whether a socket sends the packet whose connection is established, and has not gone. What answers SYNs, and
/// what answers instead of a socket in TIME_WAIT, has other states.
#[inline(always)]
fn is_live(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs; the verifier knows the pointer as a socket.
    unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        !sk.is_null() && 1 << ((*sk).state & 31) & LIVE != 0
    }
}

#[inline(always)]
fn acknowledges(ctx: &TcContext, segment: &Segment, tcp: &Tcp, delta: i32) {
    translate::acknowledgment(ctx, segment.offset, tcp.acknowledgment, delta);
}

/// The edges of the blocks that the server has got out of order. The kernel writes them behind two bytes
/// of padding, first or after its timestamps (`tcp_options_write()`).
#[inline(always)]
fn selectively(ctx: &TcContext, segment: &Segment, tcp: &Tcp, delta: i32) {
    for at in [OPTIONS, OPTIONS + TIMESTAMPS] {
        if at + HEAD >= tcp.length {
            return;
        }
        if let Some([NO_OPERATION, NO_OPERATION, SACK, length]) = load(ctx, segment.offset + at) {
            return blocks(ctx, segment, at + HEAD, length.into(), delta);
        }
    }
}

#[inline(always)]
fn blocks(ctx: &TcContext, segment: &Segment, at: usize, length: usize, delta: i32) {
    for edge in 0..EDGES {
        if 2 + edge * EDGE >= length {
            break;
        }
        let field = at + edge * EDGE;
        if let Some(old) = load(ctx, segment.offset + field) {
            let old = u32::from_be_bytes(old);
            let new = old.wrapping_sub(delta as u32);
            translate::replace(ctx, segment.offset, field, old, new);
        }
    }
}

/// Four bytes of the packet.
#[inline(always)]
fn load(ctx: &TcContext, at: usize) -> Option<[u8; 4]> {
    let mut bytes = [0; 4];
    // SAFETY: the buffer has the length that is passed; the context is valid while the program runs.
    let error = unsafe {
        let to = bytes.as_mut_ptr().cast();
        bpf_skb_load_bytes(ctx.skb.skb.cast(), at as u32, to, bytes.len() as u32)
    };
    (error == 0).then_some(bytes)
}
