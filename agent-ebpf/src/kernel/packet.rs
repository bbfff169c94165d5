//! Reads TCP segments at tc.

use agent_common::{Address, Endpoint};
use aya_ebpf::{
    bindings::{
        BPF_F_RECOMPUTE_CSUM, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::generated::{bpf_l3_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

/// The protocol's number (IANA).
pub(crate) const TCP: u8 = 6;
/// Offset and more-fragments bits of the IPv4 header, in host byte order.
const FRAGMENT: u16 = 0x3fff;

/// Headers between IPv6's and TCP's (RFC 8200, 4): hop-by-hop options, routing, destination options,
/// authentication (whose length counts in other units), and a fragment's, which has one length.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const AUTHENTICATION: u8 = 51;
const FRAGMENT_HEADER: u8 = 44;
/// So many of them are followed.
const EXTENSIONS: usize = 8;
/// Offsets in the IPv4 header.
const TOTAL_LENGTH: usize = 2;
const IP_CHECKSUM: usize = 10;
/// Offset in the IPv6 header.
const PAYLOAD_LENGTH: usize = 4;

/// A TCP segment: what a socket lookup needs, and where its headers are.
pub(crate) struct Segment {
    /// Source and destination in network order, the key of a socket lookup.
    pub(crate) tuple: bpf_sock_tuple,
    /// Whether the tuple is `ipv6`.
    pub(crate) v6: bool,
    /// Destination port in host byte order.
    pub(crate) port: u16,
    /// [`FIN`], [`SYN`], [`RST`], [`ACK`] and others.
    flags: u8,
    /// Where the TCP header begins, in bytes from the packet's start.
    pub(crate) offset: usize,
    /// Length of the TCP segment by the IP header; 0: too long for it (BIG TCP).
    pub(crate) length: usize,
    /// The IP header, an address in the packet.
    pub(crate) ip: *const u8,
    /// The TCP header, an address in the packet; its 20 fixed bytes are there.
    pub(crate) tcp: *const TcpHdr,
}

/// The fields of a TCP header, in host byte order.
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    /// Of the header, options included.
    pub(crate) length: usize,
    /// [`FIN`], [`SYN`], [`RST`], [`ACK`] and others.
    pub(crate) flags: u8,
}

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

impl Tcp {
    #[inline(always)]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Segment {
    /// The TCP header's fields, before the packet is changed.
    #[inline(always)]
    pub(crate) fn tcp(&self) -> Tcp {
        // SAFETY: `read` checked the bounds of the fixed header.
        let bytes = unsafe { &*self.tcp.cast::<[u8; TcpHdr::LEN]>() };
        let word =
            |i: usize| u32::from_be_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Tcp {
            sequence: word(4),
            acknowledgment: word(8),
            length: usize::from(bytes[12] >> 4) * 4,
            flags: bytes[13],
        }
    }

    /// SYN without ACK: the first segment of a connection.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// ACK without SYN and RST: may be a SYN cookie's.
    #[inline(always)]
    pub(crate) fn acknowledges(&self) -> bool {
        self.flags & (ACK | SYN | RST) == ACK
    }

    /// Where it comes from.
    #[inline(always)]
    pub(crate) fn source(&self) -> Endpoint {
        // SAFETY: the variant that the packet's family says.
        unsafe {
            let tuple = &self.tuple.__bindgen_anon_1;
            if self.v6 {
                Endpoint::new(
                    Address::v6(tuple.ipv6.saddr),
                    u16::from_be(tuple.ipv6.sport),
                )
            } else {
                Endpoint::new(
                    Address::v4(tuple.ipv4.saddr),
                    u16::from_be(tuple.ipv4.sport),
                )
            }
        }
    }

    /// Where it goes to.
    #[inline(always)]
    pub(crate) fn destination(&self) -> Endpoint {
        // SAFETY: as above.
        unsafe {
            let tuple = &self.tuple.__bindgen_anon_1;
            if self.v6 {
                Endpoint::new(
                    Address::v6(tuple.ipv6.daddr),
                    u16::from_be(tuple.ipv6.dport),
                )
            } else {
                Endpoint::new(
                    Address::v4(tuple.ipv4.daddr),
                    u16::from_be(tuple.ipv4.dport),
                )
            }
        }
    }

    /// Length of the tuple's variant, which tells the helpers the address family.
    #[inline(always)]
    pub(crate) fn tuple_size(&self) -> u32 {
        if self.v6 {
            size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32
        } else {
            size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32
        }
    }
}

/// The `T` at `offset` from the packet's start, if the packet's linear part holds it.
#[inline(always)]
fn at<T>(ctx: &TcContext, offset: usize) -> Option<*const T> {
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *const T)
}

/// The TCP segment of a packet on an Ethernet device. `None` for all else, for fragments, for VLANs
/// (they belong to another interface) and for IPv6 with extension headers.
#[inline(always)]
pub(crate) fn read(ctx: &TcContext) -> Option<Segment> {
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return None;
    }
    let eth: *const EthHdr = at(ctx, 0)?;
    // SAFETY: `at` checked the bounds; so below.
    let ether_type = unsafe { (*eth).ether_type };
    if ether_type == EtherType::Ipv4 as u16 {
        read_v4(ctx)
    } else if ether_type == EtherType::Ipv6 as u16 {
        read_v6(ctx)
    } else {
        None
    }
}

#[inline(always)]
fn read_v4(ctx: &TcContext) -> Option<Segment> {
    let ip: *const Ipv4Hdr = at(ctx, EthHdr::LEN)?;
    // SAFETY: `at` checked the bounds.
    let header = unsafe { &*ip };
    let fragment = u16::from_be_bytes(header.frags) & FRAGMENT != 0;
    if header.proto != TCP || fragment {
        return None;
    }
    let length = usize::from(header.vihl & 0x0f) * 4;
    if length < Ipv4Hdr::LEN {
        return None;
    }
    let tcp: *const TcpHdr = at(ctx, EthHdr::LEN + length)?;
    // SAFETY: `at` checked the bounds.
    let (source, dest) = unsafe { ((*tcp).source, (*tcp).dest) };
    let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
        saddr: u32::from_ne_bytes(header.src_addr),
        daddr: u32::from_ne_bytes(header.dst_addr),
        sport: u16::from_ne_bytes(source),
        dport: u16::from_ne_bytes(dest),
    };
    // All of it: of what LLVM keeps in registers, the verifier wants each to have a value.
    // SAFETY: zeros are a value of either variant.
    let mut tuple: bpf_sock_tuple__bindgen_ty_1 = unsafe { core::mem::zeroed() };
    tuple.ipv4 = ipv4;
    let total = usize::from(u16::from_be_bytes(header.tot_len));
    Some(Segment {
        offset: EthHdr::LEN + length,
        length: total.saturating_sub(length),
        ..segment(tuple, false, ip.cast(), tcp)
    })
}

#[inline(always)]
fn read_v6(ctx: &TcContext) -> Option<Segment> {
    let ip: *const Ipv6Hdr = at(ctx, EthHdr::LEN)?;
    // SAFETY: `at` checked the bounds.
    let header = unsafe { &*ip };
    if header.next_hdr != TCP {
        return None;
    }
    let tcp: *const TcpHdr = at(ctx, EthHdr::LEN + Ipv6Hdr::LEN)?;
    // SAFETY: `at` checked the bounds.
    let (source, dest) = unsafe { ((*tcp).source, (*tcp).dest) };
    let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
        saddr: words(header.src_addr),
        daddr: words(header.dst_addr),
        sport: u16::from_ne_bytes(source),
        dport: u16::from_ne_bytes(dest),
    };
    let tuple = bpf_sock_tuple__bindgen_ty_1 { ipv6 };
    Some(Segment {
        offset: EthHdr::LEN + Ipv6Hdr::LEN,
        length: u16::from_be_bytes(header.payload_len).into(),
        ..segment(tuple, true, ip.cast(), tcp)
    })
}

#[inline(always)]
fn segment(
    tuple: bpf_sock_tuple__bindgen_ty_1,
    v6: bool,
    ip: *const u8,
    tcp: *const TcpHdr,
) -> Segment {
    // SAFETY: the callers checked the bounds of the TCP header.
    let header = unsafe { &*tcp };
    // SAFETY: as above.
    let bytes = unsafe { &*tcp.cast::<[u8; TcpHdr::LEN]>() };
    Segment {
        tuple: bpf_sock_tuple {
            __bindgen_anon_1: tuple,
        },
        v6,
        port: u16::from_be_bytes(header.dest),
        flags: bytes[13],
        offset: 0,
        length: 0,
        ip,
        tcp,
    }
}

/// The protocol behind IPv6's extension headers, of which the first is at `at` and of this kind, and where it
/// begins. `load` reads the packet. `None`: that is in another fragment, or too far behind.
#[inline(always)]
pub(crate) fn behind_extensions(
    kind: u8,
    at: u32,
    load: impl Fn(u32) -> Option<[u8; 4]>,
) -> Option<(u8, u32)> {
    let (mut kind, mut at) = (kind, at);
    for _ in 0..EXTENSIONS {
        let unit = match kind {
            HOP_BY_HOP | ROUTING | DESTINATION => 8,
            AUTHENTICATION => 4,
            FRAGMENT_HEADER => 0,
            _ => return Some((kind, at)),
        };
        let [next, units, high, low] = load(at)?;
        if kind == FRAGMENT_HEADER && u16::from_be_bytes([high, low]) >> 3 != 0 {
            return None;
        }
        // The first eight bytes do not count.
        at += 8 + u32::from(units) * unit;
        kind = next;
    }
    None
}

/// The first `length` bytes, at most `N`, of what is at `at` from the packet's start.
#[inline(always)]
pub(crate) fn load<const N: usize>(
    ctx: &TcContext,
    at: usize,
    to: &mut [u8; N],
    length: usize,
) -> bool {
    // SAFETY: the callers pass no more than the array's length; the context is valid.
    unsafe {
        let to = to.as_mut_ptr().cast();
        bpf_skb_load_bytes(ctx.skb.skb.cast(), at as u32, to, length as u32) == 0
    }
}

/// Writes the first `length` bytes, at most `N`.
#[inline(always)]
pub(crate) fn write<const N: usize>(
    ctx: &TcContext,
    at: usize,
    from: &[u8; N],
    length: usize,
    flags: u64,
) -> bool {
    let from = from.as_ptr().cast();
    // SAFETY: as in `load`.
    unsafe { bpf_skb_store_bytes(ctx.skb.skb, at as u32, from, length as u32, flags) == 0 }
}

/// Writes, and has a checksum of the whole packet follow that the device has made.
#[inline(always)]
pub(crate) fn store<const N: usize>(ctx: &TcContext, at: usize, from: &[u8; N], length: usize) {
    write(ctx, at, from, length, BPF_F_RECOMPUTE_CSUM.into());
}

/// Tells the IP header that the TCP segment at `offset` has another length.
#[inline(always)]
pub(crate) fn set_length(ctx: &TcContext, v6: bool, offset: usize, length: usize) {
    let at = EthHdr::LEN;
    if v6 {
        let new = (length as u16).to_be_bytes();
        return store(ctx, at + PAYLOAD_LENGTH, &new, new.len());
    }
    let mut old = [0; 2];
    load(ctx, at + TOTAL_LENGTH, &mut old, 2);
    let new = ((offset - at + length) as u16).to_be_bytes();
    let word = |bytes| u64::from(u16::from_ne_bytes(bytes));
    // SAFETY: the context is valid while the program runs.
    unsafe {
        bpf_l3_csum_replace(
            ctx.skb.skb,
            (at + IP_CHECKSUM) as u32,
            word(old),
            word(new),
            new.len() as u64,
        );
    }
    write(ctx, at + TOTAL_LENGTH, &new, new.len(), 0);
}

/// An IPv6 address as the kernel's four words, still in network order.
#[inline(always)]
fn words(address: [u8; 16]) -> [u32; 4] {
    // SAFETY: both are 16 bytes without padding, and any bits are valid words.
    unsafe { core::mem::transmute(address) }
}
