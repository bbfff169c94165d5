//! The segments that open a connection, as a `cgroup_skb` program meets it on its way to a listener. The packet
//! begins with its IP header, which the kernel has checked, and fragments are reassembled.

use agent_common::{Endpoint, Syn};
use aya_ebpf::programs::SkBuffContext;

use super::{
    bytes::Bytes as _,
    ip::{Behind, Ip, TCP, behind_extensions},
    tcp::{Tcp, ports},
};

/// The first segment of a connection, or the one that completes its handshake.
#[derive(Default)]
pub(crate) struct Opening {
    /// The first segment.
    pub(crate) syn: Syn,
    /// Where the packet's TCP header begins.
    pub(crate) offset: u32,
    /// The sequence number of the SYN-ACK that a segment acknowledges which completes the handshake.
    pub(crate) answer: u32,
}

/// What a packet is to whom only the segments that open connections matter.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Packet {
    /// The first segment of a connection.
    Opens,
    /// What may complete a handshake.
    Completes,
    /// Another segment, or nothing that TCP takes.
    Other,
    /// It may be the first segment of a connection, but its TCP header was not read.
    Unreadable,
}

impl Opening {
    /// Reads a packet; fills in `self` if it opens a connection or completes that. The answer is a number, because verifiers before Linux
    /// 5.16 forget four bytes that a function leaves in its caller's stack.
    #[inline(never)]
    pub(crate) fn read(&mut self, ctx: &SkBuffContext) -> Packet {
        self.fill(ctx).unwrap_or(Packet::Unreadable)
    }

    /// What the packet is; `None` if that was not to be read.
    #[inline(always)]
    fn fill(&mut self, ctx: &SkBuffContext) -> Option<Packet> {
        let packet = &ctx.skb;
        let [first] = packet.read(0)?;
        let ip = if first >> 4 == 4 {
            Ip::v4(packet, 0)?
        } else {
            let mut ip = Ip::v6(packet, 0)?;
            match behind_extensions(packet, &ip, packet.len() as usize) {
                Behind::Header(protocol, next) => (ip.protocol, ip.next) = (protocol, next),
                Behind::Part | Behind::Unknown => return None,
            }
            ip
        };
        if ip.protocol != TCP {
            return Some(Packet::Other);
        }
        let header = packet.read(ip.next)?;
        let tcp = Tcp::new(&header);
        let (packet, isn) = if tcp.opens() {
            (Packet::Opens, tcp.sequence)
        } else if tcp.acknowledges() {
            (Packet::Completes, tcp.sequence.wrapping_sub(1))
        } else {
            return Some(Packet::Other);
        };
        let (source, destination) = ports(&header);
        self.syn = Syn {
            source: Endpoint::new(ip.source, source),
            destination: Endpoint::new(ip.destination, destination),
            isn,
        };
        self.answer = tcp.acknowledgment.wrapping_sub(1);
        self.offset = ip.next as u32;
        Some(packet)
    }
}
