//! The first segment of a connection, as a `cgroup_skb` program meets it on its way to a listener. The packet
//! begins with its IP header, which the kernel has checked, and fragments are reassembled.

use agent_common::{Endpoint, Syn};
use aya_ebpf::programs::SkBuffContext;

use super::{
    bytes::Bytes as _,
    ip::{Ip, TCP, behind_extensions},
    tcp::{Tcp, ports},
};

/// The first segment of a connection.
#[derive(Default)]
pub(crate) struct Opening {
    pub(crate) syn: Syn,
    /// Where its TCP header begins.
    pub(crate) offset: u32,
}

/// What a packet is to whom only the first segments of connections matter.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Packet {
    /// The first segment of a connection.
    Opens,
    /// Another segment, or nothing that TCP takes.
    Other,
    /// It may be the first segment of a connection, but its TCP header was not read.
    Unreadable,
}

impl Opening {
    /// Reads a packet; fills in `self` if it opens a connection. The answer is a number, because verifiers before Linux
    /// 5.16 forget four bytes that a function leaves in its caller's stack.
    #[inline(never)]
    pub(crate) fn read(&mut self, ctx: &SkBuffContext) -> Packet {
        match self.fill(ctx) {
            Some(true) => Packet::Opens,
            Some(false) => Packet::Other,
            None => Packet::Unreadable,
        }
    }

    /// Whether the packet opens a connection; `None` if that was not to be read.
    #[inline(always)]
    fn fill(&mut self, ctx: &SkBuffContext) -> Option<bool> {
        let packet = &ctx.skb;
        let [first] = packet.read(0)?;
        let ip = if first >> 4 == 4 {
            Ip::v4(packet, 0)?
        } else {
            let mut ip = Ip::v6(packet, 0)?;
            (ip.protocol, ip.next) = behind_extensions(packet, ip.protocol, ip.next)?;
            ip
        };
        if ip.protocol != TCP {
            return Some(false);
        }
        let header = packet.read(ip.next)?;
        let tcp = Tcp::new(&header);
        if !tcp.opens() {
            return Some(false);
        }
        let (source, destination) = ports(&header);
        self.syn = Syn {
            source: Endpoint::new(ip.source, source),
            destination: Endpoint::new(ip.destination, destination),
            isn: tcp.sequence,
        };
        self.offset = ip.next as u32;
        Some(true)
    }
}
