//! TCP headers.

use network_types::tcp::TcpHdr;

use super::bytes::word;

pub(crate) use agent_common::unwrap::stream::{ACK, FIN, RST, SYN};

/// Offsets.
pub(crate) const SEQUENCE: usize = 4;
pub(crate) const ACKNOWLEDGMENT: usize = 8;
pub(crate) const LENGTH: usize = 12;
pub(crate) const FLAGS: usize = 13;
pub(crate) const CHECKSUM: usize = 16;

/// The fields of a TCP header, in host byte order.
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    /// Length of the header, options included.
    pub(crate) length: usize,
    /// [`FIN`], [`SYN`], [`RST`], [`ACK`] and others.
    pub(crate) flags: u8,
}

impl Tcp {
    /// From the bytes of the header without options.
    #[inline(always)]
    pub(crate) fn new(header: &[u8; TcpHdr::LEN]) -> Self {
        Self {
            sequence: u32::from_be(word(header, SEQUENCE)),
            acknowledgment: u32::from_be(word(header, ACKNOWLEDGMENT)),
            length: usize::from(header[LENGTH] >> 4) * 4,
            flags: header[FLAGS],
        }
    }

    #[inline(always)]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether the segment is the first of a connection: SYN without ACK.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// Whether the segment may be the ACK of a SYN cookie: ACK without SYN and RST.
    #[inline(always)]
    pub(crate) fn acknowledges(&self) -> bool {
        self.flags & (ACK | SYN | RST) == ACK
    }
}

/// Source and destination port, in host byte order.
#[inline(always)]
pub(crate) fn ports(header: &[u8; TcpHdr::LEN]) -> (u16, u16) {
    let [a, b, c, d, ..] = *header;
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}
