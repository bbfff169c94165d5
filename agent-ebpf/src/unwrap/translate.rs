//! Changes sequence numbers in both directions where the server's differ from the sender's.

use core::ptr::read_volatile;

use agent_common::Connection;
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST},
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_store_bytes},
    programs::{SockOpsContext, TcContext},
};

use crate::{
    kernel::{
        context::{InNetns as _, SockOps as _},
        tcp::{ACKNOWLEDGMENT, CHECKSUM, SEQUENCE},
    },
    maps::{LINGERING, Replaced as _, TRANSLATED, TRANSLATING, UNWRAPPING, add},
};

/// Whether any connection is translated.
#[inline(always)]
pub(super) fn any() -> bool {
    // SAFETY: the pointer is to the map's only value, which lives as long as the map.
    TRANSLATING
        .get_ptr(0)
        .is_some_and(|number| unsafe { read_volatile(number) } != 0)
}

/// What to add to the sender's sequence numbers; `None` if nothing.
#[inline(always)]
pub(super) fn delta(connection: &Connection) -> Option<i32> {
    if !any() {
        return None;
    }
    TRANSLATED.look_up(connection).copied()
}

/// Translates the connection from now on. `false` if there is no room.
#[inline(never)]
pub(super) fn begin(connection: &Connection, delta: i32) -> bool {
    // It is counted before it is there, so that the number is never too low.
    add_to_number(1);
    if TRANSLATED
        .insert(connection, delta, BPF_NOEXIST.into())
        .is_ok()
    {
        return true;
    }
    // Either it is there already and was counted, or there is no room.
    let is_replaced = TRANSLATED
        .insert(connection, delta, BPF_EXIST.into())
        .is_ok();
    add_to_number(-1);
    is_replaced
}

/// Ends the translation of the connection, if there was one.
#[inline(always)]
pub(super) fn end(connection: &Connection) {
    if any() && TRANSLATED.remove(connection).is_ok() {
        add_to_number(-1);
    }
}

#[inline(always)]
fn add_to_number(by: i64) {
    if let Some(number) = TRANSLATING.get_ptr_mut(0) {
        // SAFETY: the map's only value, to which programs only add.
        unsafe { add(number, by) };
    }
}

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

/// Replaces the word at `field` of the TCP header at `offset`. Old and new are in host byte order.
#[inline(always)]
pub(super) fn replace(ctx: &TcContext, offset: usize, field: usize, old: u32, new: u32) {
    let (old, new) = (old.to_be(), new.to_be());
    let skb = ctx.skb.skb;
    // SAFETY: helpers that take this context; the value lives on the stack.
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

/// A server's socket has gone. What is still under way is translated for a while. The handshake is remembered
/// until now, because while a socket takes its place, packets find the handshake, or neither, for a moment.
#[inline(always)]
pub(crate) fn closed(ctx: &SockOpsContext) {
    let connection = Connection {
        netns: ctx.netns(),
        source: ctx.remote(),
        destination: ctx.local(),
    };
    let _ = UNWRAPPING.remove(connection);
    // This comes first, lest a packet find neither.
    if let Some(delta) = delta(&connection) {
        let _ = LINGERING.insert(connection, delta, BPF_ANY.into());
        end(&connection);
    }
}
