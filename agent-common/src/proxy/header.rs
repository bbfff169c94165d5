//! What a header says.

use super::{reason::Reason, tlv::Tlvs};
use crate::Endpoint;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    pub(super) fn checked(self) -> Result<Self, Reason> {
        if self.source.address.is_unicast() && self.destination.address.is_unicast() {
            Ok(self)
        } else {
            Err(Reason::Address)
        }
    }
}
