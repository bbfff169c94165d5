//! The end of a socket: removes its origin and tells the access log.

use agent_common::{Closed, Counter, Evidence, Origin};
use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG, BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING,
        BPF_TCP_FIN_WAIT1, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK,
    },
    programs::{SockContext, SockOpsContext},
};

use crate::{
    kernel::{
        clock::boottime,
        context::{Cookie as _, SockOps as _},
        tcp::FIN,
    },
    learn::process,
    maps::ORIGINS,
    steer::outgoing,
    tell::{self, count},
    unwrap::translate,
};

/// Follows a socket with an origin to its end.
#[inline(never)]
pub(crate) fn changed(ctx: &SockOpsContext, state: u32) {
    match state {
        BPF_TCP_FIN_WAIT1 => {
            // The states that follow do not tell whether the other end's FIN has come. Segments do.
            ctx.call_for(BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG);
        }
        BPF_TCP_FIN_WAIT2 => note_fin(ctx, Origin::FIN_ACKED),
        BPF_TCP_CLOSE_WAIT | BPF_TCP_CLOSING => note_fin(ctx, Origin::FIN_RECEIVED),
        BPF_TCP_CLOSE => closed(ctx),
        _ => {}
    }
}

/// Looks at a segment that comes in after this end's FIN. A FIN before which data is missing has not been received, and may
/// never be.
#[inline(always)]
pub(crate) fn received(ctx: &SockOpsContext) {
    if ctx.tcp_flags() & FIN == 0 {
        return;
    }
    let Some((first, fin)) = ctx.segment() else {
        return;
    };
    let next = ctx.rcv_nxt();
    if is_up_to(first, next) && is_up_to(next, fin) {
        note_fin(ctx, Origin::FIN_RECEIVED);
    }
}

/// Whether a sequence number is not behind another.
#[inline(always)]
fn is_up_to(number: u32, other: u32) -> bool {
    other.wrapping_sub(number) < 1 << 31
}

#[inline(always)]
fn note_fin(ctx: &SockOpsContext, fin: u8) {
    if let Some(origin) = ORIGINS.get_ptr_mut(ctx.cookie()) {
        // SAFETY: the entry is this socket's, which the kernel holds locked.
        unsafe { (*origin).fins |= fin };
    }
}

/// Forgets a socket and tells the access log.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let cookie = ctx.cookie();
    // SAFETY: the entry is this socket's, and this is its last call.
    let Some(origin) = (unsafe { ORIGINS.get(cookie) }) else {
        translate::closed(ctx);
        return outgoing::forget(ctx);
    };
    // Whatever is known of the client, a header may have been taken off: one that names nobody leaves it as it was.
    if origin.evidence != Evidence::Wire as u8 {
        translate::closed(ctx);
    }
    tell::ended(|| Closed {
        origin: *origin,
        cookie,
        closed: boottime(),
        received: payload_received(ctx, origin),
        sent: payload_acked(ctx, origin),
        ..Closed::default()
    });
    if ORIGINS.remove(cookie).is_ok() {
        count(Counter::Closed);
    }
}

/// Bytes of payload that came in: TCP's count without the FIN.
#[inline(always)]
fn payload_received(ctx: &SockOpsContext, origin: &Origin) -> u64 {
    (ctx.bytes_received()).saturating_sub(u64::from(origin.fins & Origin::FIN_RECEIVED))
}

/// Bytes of payload that the other end acknowledged: TCP's count without the FIN.
#[inline(always)]
fn payload_acked(ctx: &SockOpsContext, origin: &Origin) -> u64 {
    let last = ctx.arg(0);
    // In these states a reset may come instead.
    let is_last = last == BPF_TCP_CLOSING || last == BPF_TCP_LAST_ACK;
    let fin = origin.fins & Origin::FIN_ACKED != 0 || (is_last && ctx.snd_una() == ctx.snd_nxt());
    (ctx.bytes_acked()).saturating_sub(fin.into())
}

/// Notes which process gives a socket up, because sockops programs do not run in a process's name.
#[inline(always)]
pub(crate) fn release(ctx: &SockContext) {
    if let Some(origin) = ORIGINS.get_ptr_mut(ctx.cookie()) {
        process::note(origin);
    }
}
