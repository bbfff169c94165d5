//! Reads TCP segments at tc.

use aya_ebpf::{
    bindings::{
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    programs::TcContext,
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

const TCP: u8 = 6;
/// Offset and more-fragments bits of the IPv4 header, in host byte order.
const FRAGMENT: u16 = 0x3fff;

/// A TCP segment: what a socket lookup needs, and where its headers are.
pub(crate) struct Segment {
    /// Source and destination in network order, the key of a socket lookup.
    pub(crate) tuple: bpf_sock_tuple,
    /// Whether the tuple is `ipv6`.
    pub(crate) v6: bool,
    /// Destination port in host byte order.
    pub(crate) port: u16,
    /// SYN without ACK: the first segment of a connection.
    pub(crate) opens: bool,
    /// ACK without SYN and RST: may be a SYN cookie's.
    pub(crate) acknowledges: bool,
    /// The IP header, an address in the packet.
    pub(crate) ip: *const u8,
    /// The TCP header, an address in the packet; its 20 fixed bytes are there.
    pub(crate) tcp: *const TcpHdr,
}

impl Segment {
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
    let tuple = bpf_sock_tuple__bindgen_ty_1 { ipv4 };
    Some(segment(tuple, false, ip.cast(), tcp))
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
    Some(segment(tuple, true, ip.cast(), tcp))
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
    let (syn, ack, rst) = (header.syn() != 0, header.ack() != 0, header.rst() != 0);
    Segment {
        tuple: bpf_sock_tuple {
            __bindgen_anon_1: tuple,
        },
        v6,
        port: u16::from_be_bytes(header.dest),
        opens: syn && !ack,
        acknowledges: ack && !syn && !rst,
        ip,
        tcp,
    }
}

/// An IPv6 address as the kernel's four words, still in network order.
#[inline(always)]
fn words(address: [u8; 16]) -> [u32; 4] {
    // SAFETY: both are 16 bytes without padding, and any bits are valid words.
    unsafe { core::mem::transmute(address) }
}
