//! What a frame at tc is, as the kernel will take it.

use agent_common::{Endpoint, local::mac, node::Interface};
use aya_ebpf::programs::TcContext;
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use super::{
    bytes::{Bytes, Linear},
    context::Skb as _,
    ip::{Behind, Ip, TCP, behind_extensions, is_extension},
    link,
    tcp::{Tcp, ports},
    uapi::{PACKET_HOST, PACKET_OTHERHOST, VLAN_ID},
};
use crate::maps::{MASTERS, NETNS, Replaced as _};

/// Offset in the Ethernet header.
const ETHER_TYPE: usize = 12;
/// Types of the tags of VLANs: 802.1Q, and 802.1ad for the outer one of two.
const VLAN: u16 = EtherType::Ieee8021q as u16;
const SERVICE_VLAN: u16 = EtherType::Ieee8021ad as u16;
/// How much must be linear behind the link header to be read: the header of IPv6, or those of IPv4 and TCP.
const LINEAR: usize = Ipv6Hdr::LEN;
/// The longest headers of IPv4 and TCP.
const HEADERS: usize = 60 + 60;

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
    /// Nothing that TCP takes, or another interface's.
    Other,
    /// It may be a TCP segment, or a part of one, but its TCP header is not where [`read`] looks for it: fragments,
    /// IPv6 extension headers and further VLAN tags hide it. [`find`] goes on.
    Unreadable,
}

/// What an unreadable frame has.
pub(crate) enum Hidden {
    /// No TCP header: another protocol's, or a part of a packet whose TCP header is in another frame.
    Nothing,
    /// The whole TCP header of a segment, of which further parts may follow.
    Segment(Segment),
    /// A TCP header perhaps, or a part of one.
    Unknown,
}

/// Reads a frame that comes in. What is for another host is nobody's here, though the interface shows it: a frame to a guest
/// behind a bridge or a macvlan device, or one that a switch mirrors.
#[inline(always)]
pub(crate) fn arriving(ctx: &TcContext) -> Result<Segment, NoSegment> {
    if is_anothers(ctx) {
        return Err(NoSegment::Other);
    }
    read(ctx)
}

/// Whether TCP takes no such frame on this interface. It takes none to several hosts, and none to another Ethernet address,
/// except that of the bridge or another device whose port the interface is. Inlined, it would have the verifier follow all that
/// comes behind it once for each way that leads there.
#[inline(never)]
fn is_anothers(ctx: &TcContext) -> bool {
    match ctx.packet_type() {
        PACKET_HOST => false,
        PACKET_OTHERHOST => {
            let port = Interface {
                netns: NETNS.load(),
                ifindex: ctx.ifindex(),
                padding: 0,
            };
            let to = ctx.skb.read(0).map(mac);
            MASTERS.look_up(port).copied() != to
        }
        _ => true,
    }
}

/// Reads a frame.
#[inline(always)]
pub(crate) fn read(ctx: &TcContext) -> Result<Segment, NoSegment> {
    if ctx.is_of_vlan() {
        return Err(NoSegment::Other);
    }
    if ctx.data() + link::length() + LINEAR > ctx.data_end() {
        // Some network cards leave all that follows the Ethernet header outside the linear part. Too short a frame
        // stays as it is.
        let _ = ctx.pull_data(ctx.len().min((link::length() + HEADERS) as u32));
    }
    let packet = Linear(ctx);
    let ether_type = read_ether_type(ctx, &packet).ok_or(NoSegment::Unreadable)?;
    let (ip, is_v6) = if ether_type == EtherType::Ipv4 as u16 {
        (read_v4(&packet)?, false)
    } else if ether_type == EtherType::Ipv6 as u16 {
        (read_v6(&packet)?, true)
    } else {
        return Err(read_tag(&packet, ether_type));
    };
    let header = packet.read(ip.next).ok_or(NoSegment::Unreadable)?;
    let segment = segment(&ip, is_v6, &header);
    if ip.length != 0 && ip.length < segment.tcp.length {
        // The kernel drops it: the header would end in what pads the frame.
        return Err(NoSegment::Other);
    }
    Ok(segment)
}

/// What follows the link header. Without one, the device has told the kernel.
#[inline(always)]
fn read_ether_type(ctx: &TcContext, packet: &impl Bytes) -> Option<u16> {
    if link::length() == 0 {
        return Some(ctx.protocol());
    }
    packet.read(ETHER_TYPE).map(u16::from_ne_bytes)
}

#[inline(always)]
fn segment(ip: &Ip, is_v6: bool, header: &[u8; TcpHdr::LEN]) -> Segment {
    let (source, destination) = ports(header);
    Segment {
        source: Endpoint::new(ip.source, source),
        destination: Endpoint::new(ip.destination, destination),
        is_v6,
        tcp: Tcp::new(header),
        offset: ip.next,
        length: ip.length,
    }
}

/// A frame whose payload is neither IPv4 nor IPv6. The kernel has taken a first VLAN tag off. It takes off further ones
/// as long as their VLAN id is 0, and with another one the frame is another interface's.
#[inline(always)]
fn read_tag(packet: &impl Bytes, ether_type: u16) -> NoSegment {
    if ether_type != VLAN && ether_type != SERVICE_VLAN {
        return NoSegment::Other;
    }
    match packet.read(link::length()).map(u16::from_be_bytes) {
        Some(tag) if u32::from(tag) & VLAN_ID != 0 => NoSegment::Other,
        _ => NoSegment::Unreadable,
    }
}

#[inline(always)]
fn read_v4(packet: &impl Bytes) -> Result<Ip, NoSegment> {
    let ip = Ip::v4(packet, link::length()).ok_or(NoSegment::Unreadable)?;
    if ip.protocol != TCP || ip.next < link::length() + Ipv4Hdr::LEN {
        return Err(NoSegment::Other);
    }
    if ip.is_fragment() {
        return Err(NoSegment::Unreadable);
    }
    Ok(ip)
}

#[inline(always)]
fn read_v6(packet: &impl Bytes) -> Result<Ip, NoSegment> {
    let ip = Ip::v6(packet, link::length()).ok_or(NoSegment::Unreadable)?;
    match ip.protocol {
        TCP => Ok(ip),
        protocol if is_extension(protocol) => Err(NoSegment::Unreadable),
        _ => Err(NoSegment::Other),
    }
}

/// Finds the TCP header of a frame that [`read`] does not read.
#[inline(always)]
pub(crate) fn find(ctx: &TcContext) -> Hidden {
    let packet = &ctx.skb;
    let ether_type = read_ether_type(ctx, packet);
    let is_v6 = ether_type == Some(EtherType::Ipv6 as u16);
    let ip = if is_v6 {
        Ip::v6(packet, link::length())
    } else if ether_type == Some(EtherType::Ipv4 as u16) {
        Ip::v4(packet, link::length())
    } else {
        // A tag without a VLAN within another, which nobody needs.
        None
    };
    let Some(mut ip) = ip else {
        return Hidden::Unknown;
    };
    if ip.is_later_fragment() {
        return Hidden::Nothing;
    }
    let end = match ip.length {
        0 => ctx.len() as usize,
        length => ip.next + length,
    };
    if is_v6 {
        match behind_extensions(packet, &ip, end) {
            Behind::Header(protocol, next) => (ip.protocol, ip.next) = (protocol, next),
            Behind::Part => return Hidden::Nothing,
            Behind::Unknown => return Hidden::Unknown,
        }
    }
    if ip.protocol != TCP {
        return Hidden::Nothing;
    }
    // What pads the frame behind the packet is nobody's header. In a packet of several fragments, the next one may have
    // the rest of this.
    if ip.next + TcpHdr::LEN > end {
        return Hidden::Unknown;
    }
    ip.length = end - ip.next;
    match packet.read(ip.next) {
        Some(header) => Hidden::Segment(segment(&ip, is_v6, &header)),
        None => Hidden::Unknown,
    }
}
