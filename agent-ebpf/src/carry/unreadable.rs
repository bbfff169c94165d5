//! SYNs that cannot be read where they come in.

use aya_ebpf::programs::TcContext;
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use super::node;
use crate::packet::{ACK, SYN, TCP, behind_extensions, load};

/// Offset in the TCP header.
const FLAGS: u32 = 13;
/// Offset in the IPv6 header.
const NEXT_HEADER: u32 = 6;
/// Bits of the IPv4 header's field for fragments, in host byte order.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Whether the packet is a SYN to such a port in fragments, or behind extension headers of IPv6, where TOA could
/// pass unread. No system sends such.
#[inline(never)]
pub(super) fn is_syn(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return false;
    }
    let Some([high, low]) = bytes(ctx, EthHdr::LEN as u32 - 2) else {
        return false;
    };
    let ether_type = u16::from_ne_bytes([high, low]);
    let ip = EthHdr::LEN as u32;
    let found = if ether_type == EtherType::Ipv4 as u16 {
        first_fragment(ctx, ip)
    } else if ether_type == EtherType::Ipv6 as u16 {
        let kind = bytes(ctx, ip + NEXT_HEADER);
        kind.filter(|[kind]| *kind != TCP).and_then(|[kind]| {
            behind_extensions(kind, ip + Ipv6Hdr::LEN as u32, |at| bytes(ctx, at))
        })
    } else {
        None
    };
    let Some((TCP, at)) = found else { return false };
    let Some([_, _, high, low]) = bytes(ctx, at) else {
        return false;
    };
    if node(ctx, u16::from_be_bytes([high, low])).is_none() {
        return false;
    }
    // Nor does any system cut a header before its flags.
    bytes(ctx, at + FLAGS).is_none_or(|[flags]| flags & (SYN | ACK) == SYN)
}

/// What a packet of IPv4 has behind its header, if it is the first of several fragments.
#[inline(always)]
fn first_fragment(ctx: &TcContext, at: u32) -> Option<(u8, u32)> {
    let ip = bytes::<{ Ipv4Hdr::LEN }>(ctx, at)?;
    let place = u16::from_be_bytes([ip[6], ip[7]]);
    (place & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == MORE_FRAGMENTS)
        .then_some((ip[9], at + u32::from(ip[0] & 0x0f) * 4))
}

/// `N` bytes of the packet, wherever they lie.
#[inline(always)]
fn bytes<const N: usize>(ctx: &TcContext, at: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    load(ctx, at as usize, &mut bytes, N).then_some(bytes)
}
