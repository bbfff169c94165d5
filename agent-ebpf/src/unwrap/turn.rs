//! Turns a SYN-ACK that leaves into resets: of whoever sent it, and of the client.

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    helpers::generated::bpf_clone_redirect,
    programs::TcContext,
};
use network_types::tcp::TcpHdr;

use crate::kernel::{
    context::Skb as _,
    ip::swap_addresses,
    link::swap_macs,
    packet::Segment,
    rewrite::{Headers, rewrite},
    tcp::{ACK, FLAGS, RST, Tcp},
};

/// Resets whoever sent the SYN-ACK, as if its client did, by a packet that comes in by the interface: netfilter brings it to
/// where it brought the SYN. The SYN-ACK is to be dropped.
#[inline(always)]
pub(super) fn reset_server(ctx: &TcContext, segment: &Segment) {
    let _ = answer_in_the_clients_name(ctx, segment);
}

/// Resets whoever sent the SYN-ACK, and makes of it a reset for the client. Returns the action for it.
#[inline(always)]
pub(super) fn reset_both(ctx: &TcContext, segment: &Segment) -> i32 {
    if !answer_in_the_clients_name(ctx, segment) {
        return TCX_DROP;
    }
    let answer = Segment {
        tcp: Tcp {
            length: TcpHdr::LEN,
            ..segment.tcp
        },
        ..*segment
    };
    // A client takes a reset that acknowledges its SYN.
    if turn(ctx, &answer, RST | ACK) {
        TCX_NEXT
    } else {
        TCX_DROP
    }
}

#[inline(always)]
fn answer_in_the_clients_name(ctx: &TcContext, segment: &Segment) -> bool {
    // Without an acknowledgment, the sequence number is all that has to fit.
    let is_turned = turn(ctx, segment, RST);
    if is_turned {
        // SAFETY: a helper that takes this context.
        unsafe { bpf_clone_redirect(ctx.skb.skb, ctx.ifindex(), BPF_F_INGRESS.into()) };
    }
    is_turned
}

/// Makes of the segment an answer to it with these flags and without options: its ends change places, and its two numbers. That
/// the checksum covers all of these does not change it.
#[inline(never)]
fn turn(ctx: &TcContext, segment: &Segment, flags: u8) -> bool {
    let Some(headers) = Headers::read(ctx, segment) else {
        return false;
    };
    let Headers { old, new } = &mut *headers;
    new[..TcpHdr::LEN].copy_from_slice(&old[..TcpHdr::LEN]);
    [new[0], new[1], new[2], new[3]] = [old[2], old[3], old[0], old[1]];
    new[4..8].copy_from_slice(&old[8..12]);
    new[8..12].copy_from_slice(&old[4..8]);
    new[FLAGS] = flags;
    if !rewrite(ctx, segment, headers, TcpHdr::LEN) {
        return false;
    }
    swap_addresses(ctx, segment.is_v6);
    swap_macs(ctx);
    true
}
