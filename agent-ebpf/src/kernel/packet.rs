//! What a frame at tc is, as the kernel will take it.

use agent_common::Endpoint;
use aya_ebpf::programs::TcContext;
use network_types::{
    eth::{EthHdr, EtherType},
    ip::Ipv4Hdr,
};

use super::{
    bytes::{Bytes, Linear},
    context::Skb as _,
    ip::{Ip, TCP, behind_extensions, is_extension},
    tcp::{Tcp, ports},
};

/// Offset in the Ethernet header.
const ETHER_TYPE: usize = 12;

/// A TCP segment.
pub(crate) struct Segment {
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    /// Whether it came in an IPv6 packet.
    pub(crate) is_v6: bool,
    pub(crate) tcp: Tcp,
    /// Where the TCP header begins, in bytes from the frame's start.
    pub(crate) offset: usize,
    /// Length of the segment, TCP header included, as the IP header says; 0 if it is too long for that field
    /// (BIG TCP).
    pub(crate) length: usize,
}

/// What a frame is if it is not a TCP segment.
pub(crate) enum NoSegment {
    /// Nothing that TCP takes.
    Other,
    /// It may be a TCP segment, or a part of one, but its TCP header was not read.
    Unreadable(Obstacle),
}

/// Why the TCP header of a frame was not read.
#[derive(Clone, Copy)]
pub(crate) enum Obstacle {
    /// The frame has a VLAN tag, so it belongs to another interface, unless the VLAN id is 0: such a tag the
    /// kernel ignores.
    Tag,
    /// The frame is a fragment of an IPv4 packet that carries TCP.
    Fragment,
    /// IPv6 extension headers precede the payload.
    Extensions,
    /// Some header lies outside the linear part.
    Scattered,
}

impl Obstacle {
    const fn error(self) -> NoSegment {
        NoSegment::Unreadable(self)
    }
}

/// Reads a frame of an Ethernet device.
#[inline(always)]
pub(crate) fn read(ctx: &TcContext) -> Result<Segment, NoSegment> {
    if ctx.is_tagged() {
        return Err(Obstacle::Tag.error());
    }
    let packet = Linear(ctx);
    let scattered = || Obstacle::Scattered.error();
    let ether_type = u16::from_ne_bytes(packet.read(ETHER_TYPE).ok_or_else(scattered)?);
    let (ip, is_v6) = if ether_type == EtherType::Ipv4 as u16 {
        (read_v4(&packet)?, false)
    } else if ether_type == EtherType::Ipv6 as u16 {
        (read_v6(&packet)?, true)
    } else {
        return Err(NoSegment::Other);
    };
    let header = packet.read(ip.next).ok_or_else(scattered)?;
    let (source, destination) = ports(&header);
    Ok(Segment {
        source: Endpoint::new(ip.source, source),
        destination: Endpoint::new(ip.destination, destination),
        is_v6,
        tcp: Tcp::new(&header),
        offset: ip.next,
        length: ip.length,
    })
}

#[inline(always)]
fn read_v4(packet: &impl Bytes) -> Result<Ip, NoSegment> {
    let ip = Ip::v4(packet, EthHdr::LEN).ok_or(Obstacle::Scattered.error())?;
    if ip.protocol != TCP || ip.next < EthHdr::LEN + Ipv4Hdr::LEN {
        return Err(NoSegment::Other);
    }
    if ip.is_fragment() {
        return Err(Obstacle::Fragment.error());
    }
    Ok(ip)
}

#[inline(always)]
fn read_v6(packet: &impl Bytes) -> Result<Ip, NoSegment> {
    let ip = Ip::v6(packet, EthHdr::LEN).ok_or(Obstacle::Scattered.error())?;
    match ip.protocol {
        TCP => Ok(ip),
        protocol if is_extension(protocol) => Err(Obstacle::Extensions.error()),
        _ => Err(NoSegment::Other),
    }
}

/// Where the TCP header begins in a frame that [`read`] does not read: one that is the first fragment of an
/// IPv4 packet, or that has IPv6 extension headers.
#[inline(always)]
pub(crate) fn hidden_tcp(ctx: &TcContext) -> Option<usize> {
    let packet = &ctx.skb;
    let ether_type = u16::from_ne_bytes(packet.read(ETHER_TYPE)?);
    let (protocol, at) = if ether_type == EtherType::Ipv4 as u16 {
        let ip = Ip::v4(packet, EthHdr::LEN)?;
        ip.is_first_fragment().then_some((ip.protocol, ip.next))?
    } else if ether_type == EtherType::Ipv6 as u16 {
        let ip = Ip::v6(packet, EthHdr::LEN)?;
        // Without extension headers, nothing hides it.
        (ip.protocol != TCP).then_some(())?;
        behind_extensions(packet, ip.protocol, ip.next)?
    } else {
        return None;
    };
    (protocol == TCP).then_some(at)
}
