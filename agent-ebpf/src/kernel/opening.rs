//! The first segment of a connection, as a `cgroup_skb` program meets it on its way to a listener. The packet
//! begins with its IP header, which the kernel has checked, and fragments are reassembled.

use agent_common::{Endpoint, Syn};
use aya_ebpf::programs::SkBuffContext;

use super::{
    bytes::Bytes as _,
    ip::{Ip, TCP, behind_extensions},
    packet::{NoSegment, Obstacle},
    tcp::{Tcp, ports},
};

/// The first segment of a connection.
pub(crate) struct Opening {
    pub(crate) syn: Syn,
    /// Where its TCP header begins.
    pub(crate) offset: u32,
}

impl Opening {
    /// Reads a packet; `None`: it is a segment, but not the first.
    #[inline(never)]
    pub(crate) fn read(ctx: &SkBuffContext) -> Result<Option<Self>, NoSegment> {
        let packet = &ctx.skb;
        let scattered = || NoSegment::Unreadable(Obstacle::Scattered);
        let [first] = packet.read(0).ok_or_else(scattered)?;
        let ip = if first >> 4 == 4 {
            Ip::v4(packet, 0).ok_or_else(scattered)?
        } else {
            let mut ip = Ip::v6(packet, 0).ok_or_else(scattered)?;
            let behind = behind_extensions(packet, ip.protocol, ip.next);
            (ip.protocol, ip.next) = behind.ok_or(NoSegment::Unreadable(Obstacle::Extensions))?;
            ip
        };
        if ip.protocol != TCP {
            return Err(NoSegment::Other);
        }
        let header = packet.read(ip.next).ok_or_else(scattered)?;
        let tcp = Tcp::new(&header);
        if !tcp.opens() {
            return Ok(None);
        }
        let (source, destination) = ports(&header);
        let syn = Syn {
            source: Endpoint::new(ip.source, source),
            destination: Endpoint::new(ip.destination, destination),
            isn: tcp.sequence,
        };
        let offset = ip.next as u32;
        Ok(Some(Self { syn, offset }))
    }
}
