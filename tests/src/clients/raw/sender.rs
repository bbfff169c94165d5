//! Sends and reads segments.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use agent_common::{Endpoint, toa};
use anyhow::{Result, bail, ensure};
use etherparse::{
    IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket, TcpHeader, TcpSlice, TransportSlice,
};
use nix::libc::{ETH_P_ALL, IPPROTO_RAW};
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::netns::Netns;
use crate::wait::SOON;

/// How long a SYN may stay unanswered before it is sent again.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// How long one read may block before the limit is checked.
const READ: Duration = Duration::from_millis(100);

pub(super) const WINDOW: u16 = 0xffff;

const TTL: u8 = 64;

/// MSS, SACK permitted, timestamps, window scale: what Linux puts on a SYN.
pub const LINUX: [u8; 20] = [
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
];

/// TOA of this kind.
pub fn toa(kind: u8, client: SocketAddr) -> Vec<u8> {
    let client = Endpoint::from(client);
    if client.address.is_v4() {
        toa::option_v4(kind, client).to_vec()
    } else {
        toa::option_v6(kind, client).to_vec()
    }
}

/// Sends segments from a namespace and sees those that come in. The namespace must have routes to itself for the source
/// addresses but must not own them: the kernel would answer for them.
pub struct Raw {
    v4: Socket,
    v6: Socket,
    /// Every packet that the namespace receives or sends.
    pub(super) packets: Socket,
}

/// A segment that came in.
pub(super) struct Segment {
    pub(super) tcp: TcpHeader,
    pub(super) payload: Vec<u8>,
}

impl Raw {
    /// Needs `CAP_NET_RAW` in the namespace.
    pub fn new(netns: &Netns) -> Result<Self> {
        netns.enter(|| {
            // IPPROTO_RAW: the sender writes the IP header (raw(7)).
            let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW)));
            // packet(7): DGRAM leaves the link's header out.
            let all = Protocol::from(i32::from((ETH_P_ALL as u16).to_be()));
            let packets = Socket::new(Domain::PACKET, Type::DGRAM, Some(all))?;
            packets.set_read_timeout(Some(READ))?;
            Ok(Self {
                v4: raw(Domain::IPV4)?,
                v6: raw(Domain::IPV6)?,
                packets,
            })
        })
    }

    /// Sends a SYN with these options, padded to four bytes, and no more.
    pub fn syn(
        &self,
        source: SocketAddr,
        target: SocketAddr,
        sequence: u32,
        options: &[u8],
    ) -> Result<()> {
        self.syn_with(source, target, sequence, options, &[])
    }

    /// Sends a SYN with these options and a payload, as TCP Fast Open does.
    pub fn syn_with(
        &self,
        source: SocketAddr,
        target: SocketAddr,
        sequence: u32,
        options: &[u8],
        payload: &[u8],
    ) -> Result<()> {
        let mut syn = TcpHeader::new(source.port(), target.port(), sequence, WINDOW);
        syn.syn = true;
        self.send(source, target, syn, options, payload)
    }

    /// The options and the payload of the SYN with this sequence number that comes in for `target`, whose lengths
    /// and checksums are right.
    pub fn correct_syn(&self, target: SocketAddr, sequence: u32) -> Result<(Vec<u8>, Vec<u8>)> {
        let wanted = |tcp: &TcpHeader| tcp.sequence_number == sequence;
        let (Segment { tcp, payload }, checksum) = self.next_syn(target, wanted)?;
        ensure!(tcp.checksum == checksum, "TCP checksum: {tcp:?}");
        Ok((tcp.options.as_slice().to_vec(), payload))
    }

    /// Whether the next SYN comes in for `target` as its sender left it to a network card, which was to complete its
    /// checksum.
    pub fn unfinished_syn(&self, target: SocketAddr) -> Result<bool> {
        let (syn, checksum) = self.next_syn(target, |_| true)?;
        Ok(syn.tcp.checksum != checksum)
    }

    /// The next SYN that is wanted of those that come in for `target`, and what its checksum should be. What IP says of
    /// it is right.
    fn next_syn(
        &self,
        target: SocketAddr,
        wanted: impl Fn(&TcpHeader) -> bool,
    ) -> Result<(Segment, u16)> {
        let start = Instant::now();
        let mut buffer = vec![0; 1 << 16];
        while start.elapsed() < SOON.here() {
            let Ok(length) = std::io::Read::read(&mut &self.packets, &mut buffer) else {
                continue;
            };
            let packet = &buffer[..length];
            let Some((_, to, syn)) = parse(packet) else {
                continue;
            };
            if to != target || !syn.tcp.syn || !wanted(&syn.tcp) {
                continue;
            }
            let (said, checksum) = match SlicedPacket::from_ip(packet)?.net {
                Some(NetSlice::Ipv4(ip)) => {
                    let ip = ip.header().to_header();
                    let header = ip.calc_header_checksum();
                    ensure!(ip.header_checksum == header, "IP checksum: {ip:?}");
                    let said = ip.total_len.into();
                    (said, syn.tcp.calc_checksum_ipv4(&ip, &syn.payload)?)
                }
                Some(NetSlice::Ipv6(ip)) => {
                    let ip = ip.header().to_header();
                    let said = Ipv6Header::LEN + usize::from(ip.payload_length);
                    (said, syn.tcp.calc_checksum_ipv6(&ip, &syn.payload)?)
                }
                _ => bail!("no IP header"),
            };
            ensure!(said == length, "{length} bytes, and {said} by the header");
            return Ok((syn, checksum));
        }
        bail!("a SYN for {target}: not within {SOON}")
    }

    /// Sends a segment.
    pub(super) fn send(
        &self,
        source: SocketAddr,
        target: SocketAddr,
        mut tcp: TcpHeader,
        options: &[u8],
        payload: &[u8],
    ) -> Result<()> {
        tcp.set_options_raw(options)?;
        let length = tcp.header_len() + payload.len();
        let mut packet = Vec::new();
        match (source, target) {
            (SocketAddr::V4(source), SocketAddr::V4(target)) => {
                let (from, to) = (source.ip().octets(), target.ip().octets());
                let ip = Ipv4Header::new(length as u16, TTL, IpNumber::TCP, from, to)?;
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload)?;
                ip.write(&mut packet)?;
            }
            (SocketAddr::V6(source), SocketAddr::V6(target)) => {
                let ip = Ipv6Header {
                    payload_length: length as u16,
                    next_header: IpNumber::TCP,
                    hop_limit: TTL,
                    source: source.ip().octets(),
                    destination: target.ip().octets(),
                    ..Ipv6Header::default()
                };
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, payload)?;
                ip.write(&mut packet)?;
            }
            _ => bail!("{source} and {target} are not of one family"),
        }
        tcp.write(&mut packet)?;
        packet.extend_from_slice(payload);
        self.packet(target, &packet)
    }

    /// Sends a packet, IP header and all, to where packets for `target` go.
    pub fn packet(&self, target: SocketAddr, packet: &[u8]) -> Result<()> {
        let socket = if target.is_ipv4() { &self.v4 } else { &self.v6 };
        // The kernel routes by this address; ports it takes none.
        socket.send_to(packet, &SocketAddr::new(target.ip(), 0).into())?;
        Ok(())
    }

    /// Waits, but not for ever, for a segment from `source` to `target` that is wanted.
    pub(super) fn receive(
        &self,
        source: SocketAddr,
        target: SocketAddr,
        limit: Duration,
        wanted: impl Fn(&Segment) -> bool,
    ) -> Result<Option<Segment>> {
        let start = Instant::now();
        let mut buffer = vec![0; 1 << 16];
        while start.elapsed() < limit {
            let Ok(length) = std::io::Read::read(&mut &self.packets, &mut buffer) else {
                continue;
            };
            if let Some((from, to, segment)) = parse(&buffer[..length])
                && (from, to) == (source, target)
                && wanted(&segment)
            {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }
}

pub(super) fn parse(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, Segment)> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (from, to, tcp) = tcp_of(&sliced)?;
    let segment = Segment {
        payload: tcp.payload().to_vec(),
        tcp: tcp.to_header(),
    };
    Some((from, to, segment))
}

/// Source, destination and TCP header of a packet that carries TCP.
pub fn tcp_of<'a>(packet: &SlicedPacket<'a>) -> Option<(SocketAddr, SocketAddr, TcpSlice<'a>)> {
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
        return None;
    };
    let (from, to) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        NetSlice::Ipv6(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        NetSlice::Arp(_) => return None,
    };
    let from = SocketAddr::new(from, tcp.source_port());
    let to = SocketAddr::new(to, tcp.destination_port());
    Some((from, to, tcp.clone()))
}
