//! What a server sends: its acknowledgments become those of bytes that the sender knows of.

use agent_common::{
    tcp::{NO_OPERATION, OPTIONS, SACK},
    unwrap::stream::acknowledges_syn,
};
use aya_ebpf::{bindings::tcx_action_base::TCX_NEXT, macros::map, programs::TcContext};

use super::{
    incoming::{Reading, connection, versions},
    translate, whereabouts,
};
use crate::{
    kernel::{
        bytes::Bytes as _,
        context::Skb as _,
        packet::{self, Hidden, NoSegment, Segment},
        tcp::{ACK, RST, SYN},
        uapi::CONNECTED,
    },
    maps::{LINGERING, Replaced as _, Scratch, UNWRAPPING},
};

/// The segment that this CPU handles. On the stack it would take too much room.
#[map]
static LEAVING: Scratch<Segment> = Scratch::new();

/// Length of the padding, the kind and the length of selective acknowledgments.
const HEAD: usize = 4;
/// Length of a block's edge, and how many edges an option has at most.
const EDGE: usize = 4;
const EDGES: usize = 8;
/// Length of the timestamps option with its padding.
const TIMESTAMPS: usize = 12;

/// Handles one packet at tc egress and returns the action for it.
#[inline(always)]
pub(crate) fn egress(ctx: &TcContext) -> i32 {
    let is_connected = is_connected(ctx);
    if is_connected && !translate::any() {
        return TCX_NEXT;
    }
    let Some(segment) = read(ctx) else {
        return TCX_NEXT;
    };
    let tcp = &segment.tcp;
    if versions(ctx, segment.source.port).is_none() || !tcp.has(ACK) {
        return TCX_NEXT;
    }
    if tcp.has(SYN) {
        return whereabouts::answers(ctx, segment);
    }
    let connection = connection(segment.destination, segment.source);
    if (tcp.has(RST) || !is_connected)
        && let Some(handshake) = UNWRAPPING.look_up(connection)
        && acknowledges_syn(handshake, tcp.flags, tcp.acknowledgment, is_connected)
    {
        let shift = handshake.shift.into();
        translate::acknowledgment(ctx, segment.offset, tcp.acknowledgment, shift);
        return TCX_NEXT;
    }
    let delta = match translate::delta(&connection) {
        None if !is_connected => LINGERING.look_up(connection).copied(),
        delta => delta,
    };
    if let Some(delta) = delta {
        translate::acknowledgment(ctx, segment.offset, tcp.acknowledgment, delta);
        if tcp.length > OPTIONS {
            translate_sack(ctx, segment, delta);
        }
    }
    TCX_NEXT
}

/// Reads a frame. Fragments, and IPv6 packets too long for the length of their header (BIG TCP), are read as well.
#[inline(always)]
fn read(ctx: &TcContext) -> Option<&'static Segment> {
    let is_read = match read_plain(ctx) {
        Reading::Whole => true,
        Reading::Hidden => find_hidden(ctx),
        Reading::Nothing => false,
    };
    if is_read {
        LEAVING.get().map(|segment| &*segment)
    } else {
        None
    }
}

/// Like [`find_hidden`] it has a stack of its own, which ends with it.
#[inline(never)]
fn read_plain(ctx: &TcContext) -> Reading {
    match (packet::read(ctx), LEAVING.get()) {
        (Ok(segment), Some(leaving)) => {
            *leaving = segment;
            Reading::Whole
        }
        (Err(NoSegment::Unreadable), _) => Reading::Hidden,
        _ => Reading::Nothing,
    }
}

#[inline(never)]
fn find_hidden(ctx: &TcContext) -> bool {
    match (packet::find(ctx), LEAVING.get()) {
        (Hidden::Segment(segment), Some(leaving)) => {
            *leaving = segment;
            true
        }
        _ => false,
    }
}

/// Whether the packet comes from a socket whose connection is established and has not ended. What answers
/// SYNs, and what answers for a socket in TIME_WAIT, has other states.
#[inline(always)]
fn is_connected(ctx: &TcContext) -> bool {
    let state = ctx.socket_state();
    state.is_some_and(|state| 1 << (state & 31) & CONNECTED != 0)
}

/// Translates the edges of the blocks that the server received out of order. The kernel writes them behind
/// two bytes of padding, first or after its timestamps (`tcp_options_write()`).
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
