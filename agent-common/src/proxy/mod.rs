//! The PROXY protocol, versions 1 and 2, to the letter of its specification
//! (<https://www.haproxy.org/download/3.3/doc/proxy-protocol.txt>; sections are cited where a rule is
//! applied).
//!
//! There is no guessing: what does not begin with a header is an error, as section 2 demands of a
//! receiver. Whether the sender may be believed is for the caller to decide.

pub mod block;
mod crc32c;
pub mod line;
mod tlv;
mod v1;
pub mod v2;
pub mod write;

pub use tlv::{Meaning, Ssl, Tlv, Tlvs, kind};

use crate::Endpoint;

/// Length of the longest line of version 1, with its CRLF (2.1).
pub const V1_MAX: usize = v1::MAX;

/// What the bytes at the beginning of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The beginning of a header that has at least this many bytes in all.
    Incomplete(usize),
    /// A header, with payload behind it or not.
    Header(Header<'a>),
    /// Not a header: the connection is to be aborted.
    Error(Reason),
}

/// A complete and valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// How many bytes it takes; the payload begins behind them.
    pub len: usize,
    /// For whom the sender speaks.
    pub peer: Peer,
    /// What else it says (version 2).
    pub tlvs: Tlvs<'a>,
}

/// For whom the sender of a header speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// For itself, as in a health check: `LOCAL`. The connection's own ends are to be used.
    Local,
    /// For a client that it cannot name, or of another protocol than TCP: `UNKNOWN`, `UNSPEC` and what
    /// falls back to that. The connection's own ends are to be used.
    Unknown,
    /// For this client.
    Proxied(Endpoints),
}

/// The ends of the connection that a proxy accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The client.
    pub source: Endpoint,
    /// Where the client wanted to go.
    pub destination: Endpoint,
}

impl Endpoints {
    /// Refuses what cannot be the end of a TCP connection, as Envoy does: the specification leaves such
    /// addresses open, but no client has one.
    #[inline(always)]
    fn checked(self) -> Result<Self, Reason> {
        if self.source.address.is_unicast() && self.destination.address.is_unicast() {
            Ok(self)
        } else {
            Err(Reason::Address)
        }
    }
}

/// Why bytes are not a header.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// They begin with neither version's signature.
    NoHeader,
    /// Version 1: no CRLF within [`V1_MAX`] bytes.
    LineTooLong,
    /// Version 1: LF without CR.
    LineEnd,
    /// Version 1: neither `TCP4`, `TCP6` nor `UNKNOWN`.
    Protocol,
    /// Version 1: not four fields with one space between them.
    Fields,
    /// Not an address of the family, or none that a TCP connection can have.
    Address,
    /// Version 1: not a port.
    Port,
    /// The signature of version 2 with another version.
    Version,
    /// Version 2: neither `LOCAL` nor `PROXY`.
    Command,
    /// Version 2: a family or transport that is not assigned.
    Family,
    /// Version 2: shorter than the family's addresses.
    Length,
    /// Version 2: a TLV that ends beyond the header, is not what its type demands, or is a second
    /// checksum.
    Tlv,
    /// Version 2: the header is not what its CRC32C says.
    Checksum,
}

impl Reason {
    /// Every reason, in the order of the discriminants.
    pub const ALL: [Self; 13] = [
        Self::NoHeader,
        Self::LineTooLong,
        Self::LineEnd,
        Self::Protocol,
        Self::Fields,
        Self::Address,
        Self::Port,
        Self::Version,
        Self::Command,
        Self::Family,
        Self::Length,
        Self::Tlv,
        Self::Checksum,
    ];

    /// The word for it in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoHeader => "no_header",
            Self::LineTooLong => "line_too_long",
            Self::LineEnd => "line_end",
            Self::Protocol => "protocol",
            Self::Fields => "fields",
            Self::Address => "address",
            Self::Port => "port",
            Self::Version => "version",
            Self::Command => "command",
            Self::Family => "family",
            Self::Length => "length",
            Self::Tlv => "tlv",
            Self::Checksum => "checksum",
        }
    }
}

/// Parses the header at the beginning of a connection. Bytes behind it are not looked at.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    let outcome = if begins(bytes, v2::SIGNATURE) && !bytes.is_empty() {
        v2::parse(bytes)
    } else if begins(bytes, v1::SIGNATURE) {
        v1::parse(bytes)
    } else {
        Err(Reason::NoHeader)
    };
    outcome.unwrap_or_else(Parsed::Error)
}

/// Whether `bytes` may be the beginning of what starts with `signature`.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(a, b)| a == b)
}
