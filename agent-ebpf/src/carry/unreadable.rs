//! SYNs that cannot be read where they come in.

use aya_ebpf::programs::TcContext;

use crate::kernel::{
    bytes::Bytes as _,
    packet,
    tcp::{ACK, FLAGS, SYN},
};

/// Whether the frame is a SYN to a port that `is_told` in fragments, or behind extension headers of IPv6, where TOA
/// could pass unread. No system sends such.
#[inline(never)]
pub(super) fn is_syn(ctx: &TcContext, is_told: impl Fn(u16) -> bool) -> bool {
    let Some(tcp) = packet::hidden_tcp(ctx) else {
        return false;
    };
    let Some([_, _, high, low]) = ctx.skb.read(tcp) else {
        return false;
    };
    // Nor does any system cut a header before its flags.
    is_told(u16::from_be_bytes([high, low]))
        && ctx
            .skb
            .read(tcp + FLAGS)
            .is_none_or(|[flags]| flags & (SYN | ACK) == SYN)
}
