//! The end of a socket: its origin is removed, and the access log told.

use agent_common::{Closed, Counter, Evidence, Origin, Process};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP,
        BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG,
    },
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
        bpf_get_current_uid_gid, bpf_get_socket_cookie, bpf_ktime_get_boot_ns,
    },
    programs::{SockContext, SockOpsContext},
};

use crate::{
    counters::count,
    learn,
    maps::{EVENTS, ORIGINS},
    sockops, unwrap,
};

/// Bytes of events at which the agent is woken: a quarter of the ring.
const MUCH: u64 = 1 << 20;
/// Half of the ring.
const HALF: u64 = 2 << 20;
/// TCP states (`enum` of include/net/tcp_states.h, UAPI by `BPF_TCP_*`).
const TCP_FIN_WAIT1: u32 = 4;
const TCP_FIN_WAIT2: u32 = 5;
const TCP_CLOSE: u32 = 7;
const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LAST_ACK: u32 = 9;
const TCP_CLOSING: u32 = 11;
/// The FIN bit of the TCP header's flags.
const TCPHDR_FIN: u32 = 1;

/// Follows a socket with an origin to its end.
#[inline(never)]
pub(crate) fn changed(ctx: &SockOpsContext, state: u32) {
    match state {
        TCP_FIN_WAIT1 => {
            // Which state follows does not tell whether the other end's FIN has come: look at segments.
            sockops::call_for(ctx, BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG);
        }
        TCP_FIN_WAIT2 => note_fin(ctx, Origin::FIN_ACKED),
        TCP_CLOSE_WAIT => note_fin(ctx, Origin::FIN_RECEIVED),
        TCP_CLOSE => closed(ctx),
        _ => {}
    }
}

/// Sees the segments that come after this end's FIN.
#[inline(always)]
pub(crate) fn received(ctx: &SockOpsContext) {
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*ctx.ops).skb_tcp_flags } & TCPHDR_FIN != 0 {
        note_fin(ctx, Origin::FIN_RECEIVED);
    }
}

#[inline(always)]
fn note_fin(ctx: &SockOpsContext, fin: u8) {
    if let Some(origin) = ORIGINS.get_ptr_mut(sockops::cookie(ctx)) {
        // SAFETY: the entry is this socket's, which the kernel holds locked.
        unsafe { (*origin).fins |= fin };
    }
}

/// Forgets a socket and tells the access log.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let cookie = sockops::cookie(ctx);
    // SAFETY: the entry is this socket's, and this is its last call.
    let Some(origin) = (unsafe { ORIGINS.get(cookie) }) else {
        unwrap::closed(ctx);
        return learn::forget_connection(ctx);
    };
    if origin.evidence == Evidence::Proxy as u8 {
        unwrap::closed(ctx);
    }
    match EVENTS.reserve::<Closed>(0) {
        Some(mut event) => {
            event.write(Closed {
                origin: *origin,
                cookie,
                // SAFETY: a helper without arguments.
                closed: unsafe { bpf_ktime_get_boot_ns() },
                received: bytes_received(ctx, origin),
                sent: bytes_sent(ctx, origin),
                ..Closed::default()
            });
            event.submit(wakeup());
        }
        None => count(Counter::EventsLost),
    }
    if ORIGINS.remove(cookie).is_ok() {
        count(Counter::Closed);
    }
}

/// Tells that a connection was refused. Only while half of the ring is free: a flood of them must leave room
/// for connections that end.
#[inline(always)]
pub(crate) fn tell_refused(refused: Closed) {
    let is_room = EVENTS.query(BPF_RB_AVAIL_DATA.into()) < HALF;
    match is_room.then(|| EVENTS.reserve::<Closed>(0)).flatten() {
        Some(mut event) => {
            event.write(refused);
            event.submit(wakeup());
        }
        None => count(Counter::EventsLost),
    }
}

/// The agent looks every now and then: to wake it for each connection would cost more than all else
/// here. It is woken when much is waiting.
#[inline(always)]
fn wakeup() -> u64 {
    if EVENTS.query(BPF_RB_AVAIL_DATA.into()) > MUCH {
        BPF_RB_FORCE_WAKEUP.into()
    } else {
        BPF_RB_NO_WAKEUP.into()
    }
}

/// Payload that came in: TCP's count less the FIN.
#[inline(always)]
fn bytes_received(ctx: &SockOpsContext, origin: &Origin) -> u64 {
    // SAFETY: the context is valid while the program runs.
    let bytes = unsafe { (*ctx.ops).bytes_received };
    bytes - u64::from(origin.fins & Origin::FIN_RECEIVED)
}

/// Payload that the other end acknowledged: TCP's count less the FIN.
#[inline(always)]
fn bytes_sent(ctx: &SockOpsContext, origin: &Origin) -> u64 {
    // SAFETY: the context is valid while the program runs.
    let (bytes, all_acked) = unsafe {
        let ops = &*ctx.ops;
        (ops.bytes_acked, ops.snd_una == ops.snd_nxt)
    };
    let last = ctx.arg(0);
    let fin = origin.fins & Origin::FIN_ACKED != 0
        || last == TCP_CLOSING
        || (last == TCP_LAST_ACK && all_acked);
    bytes - u64::from(fin)
}

/// Notes which process gives a socket up: sockops runs in no process's name.
#[inline(always)]
pub(crate) fn release(ctx: &SockContext) {
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if let Some(origin) = ORIGINS.get_ptr_mut(cookie) {
        note_process(origin);
    }
}

/// Notes the current process in an origin of a socket that it uses.
#[inline(always)]
pub(crate) fn note_process(origin: *mut Origin) {
    // SAFETY: helpers without arguments.
    let (task, user, cgroup) = unsafe {
        (
            bpf_get_current_pid_tgid(),
            bpf_get_current_uid_gid(),
            bpf_get_current_cgroup_id(),
        )
    };
    let mut process = Process {
        pid: (task >> 32) as u32,
        uid: user as u32,
        cgroup,
        comm: [0; 16],
    };
    // SAFETY: the buffer has the length that is passed, and on failure the helper clears it. The entry
    // is a socket's that the process holds; of two processes that use it at once, either may be noted.
    unsafe {
        bpf_get_current_comm(process.comm.as_mut_ptr().cast(), process.comm.len() as u32);
        (*origin).process = process;
    }
}
