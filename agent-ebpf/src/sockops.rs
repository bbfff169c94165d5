//! sockops: what happens to a TCP socket goes to the verbs that it concerns.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB,
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_SOCK_OPS_WRITE_HDR_OPT_CB,
    },
    programs::SockOpsContext,
};

use crate::{
    carry, close,
    kernel::{
        context::SockOps as _,
        tcp::{ACK, SYN},
    },
    learn::{self, toa},
    steer::{listeners, outgoing},
};

const SYN_ACK: u8 = SYN | ACK;

/// Passes a call on. Verbs that need much of the stack, which is 512 bytes for a chain of calls, are calls of their
/// own and not inlined.
#[inline(always)]
pub(crate) fn call(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_LISTEN_CB => {
            toa::listens(ctx);
            learn::relay_listens(ctx);
            listeners::listens(ctx);
        }
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            outgoing::connects(ctx);
            carry::connects(ctx);
        }
        BPF_SOCK_OPS_HDR_OPT_LEN_CB => match ctx.tcp_flags() & SYN_ACK {
            SYN => carry::sends(ctx),
            SYN_ACK => toa::answers(ctx),
            _ => {}
        },
        BPF_SOCK_OPS_WRITE_HDR_OPT_CB => carry::writes(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            outgoing::forget(ctx);
            carry::connected(ctx);
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            // The flag is inherited from the listener.
            carry::connected(ctx);
            if ctx.tcp_flags() & SYN_ACK == SYN {
                toa::opens(ctx);
            }
            learn::accepted(ctx);
        }
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB => close::received(ctx),
        BPF_SOCK_OPS_STATE_CB => close::changed(ctx, ctx.arg(1)),
        _ => {}
    }
}
