//! The Ethernet header.

use aya_ebpf::programs::TcContext;

use super::bytes::{copy, write};

/// Length of both addresses of an Ethernet header.
const MACS: usize = 12;

/// Has the two addresses change places.
#[inline(always)]
pub(crate) fn swap_macs(ctx: &TcContext) {
    let mut macs = [0; MACS];
    copy(&ctx.skb, 0, &mut macs, MACS);
    let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
    write(&ctx.skb, 0, &[g, h, i, j, k, l, a, b, c, d, e, f], MACS, 0);
}
