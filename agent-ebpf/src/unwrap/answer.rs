//! What a server sends: acknowledges bytes that its sender knows of.

use agent_common::options::{NO_OPERATION, OPTIONS, SACK};
use aya_ebpf::{bindings::tcx_action_base::TCX_NEXT, programs::TcContext};

use super::{
    incoming::{connection, versions},
    translate,
};
use crate::{
    kernel::{
        bytes::Bytes as _,
        context::Skb as _,
        packet::{self, NoSegment, Segment},
        tcp::{ACK, RST, SYN},
        uapi::CONNECTED,
    },
    maps::{LINGERING, Replaced as _, UNWRAPPING},
};

/// Padding, kind and length of selective acknowledgments.
const HEAD: usize = 4;
/// Bytes of an edge of a block, and how many an option has at most.
const EDGE: usize = 4;
const EDGES: usize = 8;
/// How long timestamps are with their padding.
const TIMESTAMPS: usize = 12;

/// One packet at tc egress; the action for it.
#[inline(always)]
pub(crate) fn egress(ctx: &TcContext) -> i32 {
    let is_connected = is_connected(ctx);
    if is_connected && !translate::any() {
        return TCX_NEXT;
    }
    let segment = match packet::read(ctx) {
        Ok(segment) => segment,
        Err(NoSegment::Other | NoSegment::Unreadable(_)) => return TCX_NEXT,
    };
    let tcp = &segment.tcp;
    if versions(ctx, segment.source.port).is_none() || !tcp.has(ACK) {
        return TCX_NEXT;
    }
    let connection = connection(segment.destination, segment.source);
    if tcp.has(SYN) || tcp.has(RST) {
        if let Some(handshake) = UNWRAPPING.look_up(connection)
            && tcp.acknowledgment == handshake.first()
        {
            let shift = handshake.shift.into();
            translate::acknowledgment(ctx, segment.offset, tcp.acknowledgment, shift);
            return TCX_NEXT;
        }
    }
    let delta = match translate::delta(&connection) {
        None if !is_connected => LINGERING.look_up(connection).copied(),
        delta => delta,
    };
    if let Some(delta) = delta {
        translate::acknowledgment(ctx, segment.offset, tcp.acknowledgment, delta);
        if tcp.length > OPTIONS {
            translate_sack(ctx, &segment, delta);
        }
    }
    TCX_NEXT
}

/// Whether a socket sends the packet whose connection is established, and has not gone. What answers SYNs, and
/// what answers instead of a socket in TIME_WAIT, has other states.
#[inline(always)]
fn is_connected(ctx: &TcContext) -> bool {
    let state = ctx.socket_state();
    state.is_some_and(|state| 1 << (state & 31) & CONNECTED != 0)
}

/// The edges of the blocks that the server has got out of order. The kernel writes them behind two bytes
/// of padding, first or after its timestamps (`tcp_options_write()`).
#[inline(always)]
fn translate_sack(ctx: &TcContext, segment: &Segment, delta: i32) {
    for at in [OPTIONS, OPTIONS + TIMESTAMPS] {
        if at + HEAD >= segment.tcp.length {
            return;
        }
        if let Some([NO_OPERATION, NO_OPERATION, SACK, length]) = ctx.skb.read(segment.offset + at)
        {
            return translate_blocks(ctx, segment, at + HEAD, length.into(), delta);
        }
    }
}

#[inline(always)]
fn translate_blocks(ctx: &TcContext, segment: &Segment, at: usize, length: usize, delta: i32) {
    for edge in 0..EDGES {
        if 2 + edge * EDGE >= length {
            break;
        }
        let field = at + edge * EDGE;
        if let Some(old) = ctx.skb.read(segment.offset + field) {
            let old = u32::from_be_bytes(old);
            let new = old.wrapping_sub(delta as u32);
            translate::replace(ctx, segment.offset, field, old, new);
        }
    }
}
