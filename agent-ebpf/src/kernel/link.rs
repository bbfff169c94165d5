//! The link header in front of the IP header of a frame at tc. Devices without one, such as tunnels, have none.

use aya_ebpf::programs::TcContext;

use super::bytes::{copy, write};
use crate::maps::LINK_HEADER;

/// Length of both addresses of an Ethernet header.
const MACS: usize = 12;

/// How long the link header is: the same for all devices that this instance of the programs is attached to. The verifier
/// knows the number.
#[inline(always)]
pub(crate) fn length() -> usize {
    LINK_HEADER.load() as usize
}

/// Has the two addresses of an Ethernet header change places.
#[inline(always)]
pub(crate) fn swap_macs(ctx: &TcContext) {
    if length() == 0 {
        return;
    }
    let mut macs = [0; MACS];
    copy(&ctx.skb, 0, &mut macs, MACS);
    let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
    write(&ctx.skb, 0, &[g, h, i, j, k, l, a, b, c, d, e, f], MACS, 0);
}
