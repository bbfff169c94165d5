//! SYNs that the reader of frames does not read.

use aya_ebpf::programs::TcContext;

use crate::kernel::{
    bytes::Bytes as _,
    packet,
    tcp::{ACK, FLAGS, SYN},
};

/// Whether the frame is a SYN to a port that `is_told`, but fragmented or behind IPv6 extension headers,
/// where TOA could pass unread. No system sends such a SYN.
#[inline(never)]
pub(super) fn is_syn(ctx: &TcContext, is_told: impl Fn(u16) -> bool) -> bool {
    let Some(tcp) = packet::hidden_tcp(ctx) else {
        return false;
    };
    let Some([_, _, high, low]) = ctx.skb.read(tcp) else {
        return false;
    };
    // No system splits a TCP header before its flags, either.
    is_told(u16::from_be_bytes([high, low]))
        && ctx
            .skb
            .read(tcp + FLAGS)
            .is_none_or(|[flags]| flags & (SYN | ACK) == SYN)
}
