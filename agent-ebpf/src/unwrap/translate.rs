//! Changes sequence numbers, of both directions, where the server's differ from the sender's.

use agent_common::Connection;
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_SOCK_OPS_STATE_CB_FLAG},
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_store_bytes},
    programs::{SockOpsContext, TcContext},
};

use crate::{
    maps::{LINGERING, TRANSLATED, UNWRAPPING},
    sockops,
};

/// Offsets in the TCP header.
const SEQUENCE: usize = 4;
const ACKNOWLEDGMENT: usize = 8;
const CHECKSUM: usize = 16;

/// Adds to the sequence number of the TCP header at `offset`.
#[inline(always)]
pub(super) fn sequence(ctx: &TcContext, offset: usize, old: u32, delta: i32) {
    replace(ctx, offset, SEQUENCE, old, old.wrapping_add_signed(delta));
}

/// Subtracts from the acknowledgment number of the TCP header at `offset`.
#[inline(always)]
pub(super) fn acknowledgment(ctx: &TcContext, offset: usize, old: u32, delta: i32) {
    replace(
        ctx,
        offset,
        ACKNOWLEDGMENT,
        old,
        old.wrapping_sub(delta as u32),
    );
}

/// Replaces the word at `field` of the TCP header at `offset`, both in host byte order.
#[inline(always)]
pub(super) fn replace(ctx: &TcContext, offset: usize, field: usize, old: u32, new: u32) {
    let (old, new) = (old.to_be(), new.to_be());
    let skb = ctx.skb.skb;
    // SAFETY: the context is valid while the program runs; the value lives on the stack.
    unsafe {
        bpf_l4_csum_replace(
            skb,
            (offset + CHECKSUM) as u32,
            old.into(),
            new.into(),
            size_of::<u32>() as u64,
        );
        bpf_skb_store_bytes(
            skb,
            (offset + field) as u32,
            (&raw const new).cast(),
            size_of::<u32>() as u32,
            0,
        );
    }
}

/// A server's socket is accepted: its end is of interest even without an origin.
#[inline(always)]
pub(crate) fn accepted(ctx: &SockOpsContext) {
    sockops::call_for(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
}

#[inline(always)]
fn connection(ctx: &SockOpsContext) -> Connection {
    Connection {
        netns: sockops::netns(ctx),
        source: sockops::remote(ctx),
        destination: sockops::local(ctx),
    }
}

/// A server's socket has gone. What is still on the way is translated for a while. What was a handshake is
/// remembered until now: when a socket follows it, packets find the handshake, or neither, for a moment.
#[inline(always)]
pub(crate) fn closed(ctx: &SockOpsContext) {
    let connection = connection(ctx);
    let _ = UNWRAPPING.remove(connection);
    // SAFETY: values are never changed in place.
    if let Some(delta) = unsafe { TRANSLATED.get(connection) } {
        let _ = LINGERING.insert(connection, *delta, BPF_ANY.into());
        let _ = TRANSLATED.remove(connection);
    }
}
