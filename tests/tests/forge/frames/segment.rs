//! A TCP segment as bytes, before anything hides it.

use std::net::{IpAddr, SocketAddr};

/// Flags of a TCP header.
pub(super) const SYN: u8 = 0x02;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

/// The number of the protocol (IANA).
pub(super) const TCP: u8 = 6;
/// Where a TCP header has its flags, and the length of one without options.
pub(super) const FLAGS: usize = 13;
pub(super) const HEADER: usize = 20;

/// A segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) flags: u8,
    /// A multiple of four bytes.
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Segment {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let length = HEADER + self.options.len();
        let mut bytes = Vec::with_capacity(length + self.payload.len());
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.target.port().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgment.to_be_bytes());
        bytes.extend([(length as u8 / 4) << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(&self.options);
        bytes.extend(&self.payload);
        let pseudo = [
            addresses(self.source.ip(), self.target.ip()),
            (bytes.len() as u32).to_be_bytes().into(),
            u32::from(TCP).to_be_bytes().into(),
        ];
        let sum = checksum(&[&pseudo.concat(), &bytes]);
        bytes[16..18].copy_from_slice(&sum);
        bytes
    }
}

/// Two addresses of one family, as headers have them.
pub(super) fn addresses(source: IpAddr, target: IpAddr) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    [octets(source), octets(target)].concat()
}

/// The internet checksum of parts that have an even length each, save the last.
pub(super) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u32 = 0;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!sum as u16).to_be_bytes()
}
