//! IP headers.

use agent_common::Address;
use aya_ebpf::{
    bindings::BPF_F_RECOMPUTE_CSUM, helpers::generated::bpf_l3_csum_replace, programs::TcContext,
};
use network_types::ip::{IpProto, Ipv4Hdr, Ipv6Hdr};

use super::{
    bytes::{Bytes, copy, word, write},
    link,
};

/// Numbers of protocols (IANA).
pub(crate) const TCP: u8 = IpProto::Tcp as u8;
const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
const ROUTING: u8 = IpProto::Ipv6Route as u8;
const DESTINATION: u8 = IpProto::Ipv6Opts as u8;
const AUTHENTICATION: u8 = IpProto::Ah as u8;
const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;

/// How many headers behind that of IPv6 are looked at.
const MAX_HEADERS: usize = 9;
/// Length of an extension header without more than it must have.
const SHORTEST: usize = 8;
/// Bits of the IPv4 header's field for fragments, in host byte order.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Offsets in the IPv4 header.
const TOTAL_LENGTH: usize = 2;
const CHECKSUM: usize = 10;
pub(crate) const SOURCE_V4: usize = 12;
/// Offsets in the IPv6 header.
const PAYLOAD_LENGTH: usize = 4;
pub(crate) const SOURCE_V6: usize = 8;

/// What an IP header says.
pub(crate) struct Ip {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// The protocol of what follows; for IPv6 this may be an extension header.
    pub(crate) protocol: u8,
    /// Where that begins, counted from where the packet's bytes are.
    pub(crate) next: usize,
    /// How long that is; 0 for IPv6 means too long for the field (BIG TCP).
    pub(crate) length: usize,
    /// IPv4's field with [`MORE_FRAGMENTS`] and [`FRAGMENT_OFFSET`].
    place: u16,
}

impl Ip {
    /// The IPv4 header at `at`, or `None` if the packet ends before.
    #[inline(always)]
    pub(crate) fn v4(packet: &impl Bytes, at: usize) -> Option<Self> {
        let header = packet.read::<{ Ipv4Hdr::LEN }>(at)?;
        let length = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        Some(Self {
            source: Address::v4(word(&header, 12)),
            destination: Address::v4(word(&header, 16)),
            protocol: header[9],
            next: at + length,
            length: total.saturating_sub(length),
            place: u16::from_be_bytes([header[6], header[7]]),
        })
    }

    /// The IPv6 header at `at`, or `None` if the packet ends before.
    #[inline(always)]
    pub(crate) fn v6(packet: &impl Bytes, at: usize) -> Option<Self> {
        let header = packet.read::<{ Ipv6Hdr::LEN }>(at)?;
        let address = |i: usize| {
            Address::v6([
                word(&header, i),
                word(&header, i + 4),
                word(&header, i + 8),
                word(&header, i + 12),
            ])
        };
        Some(Self {
            source: address(8),
            destination: address(24),
            protocol: header[6],
            next: at + Ipv6Hdr::LEN,
            length: u16::from_be_bytes([header[4], header[5]]).into(),
            place: 0,
        })
    }

    /// Whether this is a fragment of an IPv4 packet.
    #[inline(always)]
    pub(crate) fn is_fragment(&self) -> bool {
        self.place & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Whether this is a fragment of an IPv4 packet, and not the first.
    #[inline(always)]
    pub(crate) fn is_later_fragment(&self) -> bool {
        self.place & FRAGMENT_OFFSET != 0
    }
}

/// Whether this protocol is an IPv6 extension header, which others can follow.
#[inline(always)]
pub(crate) fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION | FRAGMENT
    )
}

/// What lies behind IPv6's extension headers.
pub(crate) enum Behind {
    /// The header of this protocol, which begins here.
    Header(u8, usize),
    /// A part of it: the packet is a fragment, and not the first.
    Part,
    /// That is not known: there are too many headers, or the packet ends within them.
    Unknown,
}

/// What lies behind the extension headers (RFC 8200, 4) that follow this header of IPv6, in a packet that ends at `end`.
#[inline(always)]
pub(crate) fn behind_extensions(packet: &impl Bytes, ip: &Ip, end: usize) -> Behind {
    let (mut kind, mut at) = (ip.protocol, ip.next);
    for _ in 0..MAX_HEADERS {
        // A length counts units of eight bytes, or of four in an authentication header (RFC 4302). A fragment
        // header has a fixed length.
        let unit = match kind {
            HOP_BY_HOP | ROUTING | DESTINATION => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            _ => return Behind::Header(kind, at),
        };
        // What pads a frame behind the packet is no header.
        if at + SHORTEST > end {
            return Behind::Unknown;
        }
        let Some([next, units, high, low]) = packet.read(at) else {
            return Behind::Unknown;
        };
        if kind == FRAGMENT && u16::from_be_bytes([high, low]) >> 3 != 0 {
            return Behind::Part;
        }
        // The first eight bytes do not count.
        at += SHORTEST + usize::from(units) * unit;
        kind = next;
    }
    Behind::Unknown
}

/// Sets the length that the IP header of a frame at tc gives to what follows it, at `next`.
#[inline(always)]
pub(crate) fn set_length(ctx: &TcContext, is_v6: bool, next: usize, length: usize) {
    let header = link::length();
    if is_v6 {
        let new = (length as u16).to_be_bytes();
        let at = header + PAYLOAD_LENGTH;
        write(&ctx.skb, at, &new, new.len(), BPF_F_RECOMPUTE_CSUM);
        return;
    }
    let at = header + TOTAL_LENGTH;
    let old = ctx.skb.read(at).unwrap_or([0; 2]);
    let new = ((next - header + length) as u16).to_be_bytes();
    let word = |bytes| u64::from(u16::from_ne_bytes(bytes));
    let size = new.len() as u64;
    let checksum = (header + CHECKSUM) as u32;
    // SAFETY: the helper checks that the field lies in the packet.
    unsafe { bpf_l3_csum_replace(ctx.skb.skb, checksum, word(old), word(new), size) };
    write(&ctx.skb, at, &new, new.len(), 0);
}

/// Has source and destination of a frame at tc change places, which changes no checksum.
#[inline(always)]
pub(crate) fn swap_addresses(ctx: &TcContext, is_v6: bool) {
    let header = link::length();
    if is_v6 {
        swap::<16, 32>(ctx, header + SOURCE_V6);
    } else {
        swap::<4, 8>(ctx, header + SOURCE_V4);
    }
}

/// Has two addresses of `N` bytes each, `BOTH` bytes from `at` on, change places.
#[inline(always)]
fn swap<const N: usize, const BOTH: usize>(ctx: &TcContext, at: usize) {
    let mut old = [0; BOTH];
    if copy(&ctx.skb, at, &mut old, BOTH) {
        let mut new = [0; BOTH];
        new[..N].copy_from_slice(&old[N..]);
        new[N..].copy_from_slice(&old[..N]);
        write(&ctx.skb, at, &new, BOTH, 0);
    }
}
