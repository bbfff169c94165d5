//! SYNs that the reader of frames does not read.

use aya_ebpf::programs::TcContext;

use crate::kernel::packet::{Hidden, find};

/// Whether the frame may be a SYN to a port that `is_told`, though hidden: in fragments, behind IPv6 extension headers
/// or several VLAN tags, where TOA could pass unread. No system sends such a SYN.
#[inline(never)]
pub(super) fn is_syn(ctx: &TcContext, is_told: impl Fn(u16) -> bool) -> bool {
    match find(ctx) {
        Hidden::Nothing => false,
        Hidden::Segment(segment) => segment.tcp.opens() && is_told(segment.destination.port),
        Hidden::Unknown => true,
    }
}
