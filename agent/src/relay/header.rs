//! The PROXY header at the beginning of a connection, and that of the next one.

use std::{io, time::Duration};

use agent_common::proxy::{self, Header, Parsed, Peer, Tlv, kind, write};
use tokio::{net::TcpStream, time};

use crate::{config::Send, connections::proxy_tlvs::ProxyTlvs as Details};

/// Room for a header with the first payload: one segment, as a rule.
const ROOM: usize = 1460;

/// Why a connection is not relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It does not begin with a header.
    Header(proxy::Reason),
    /// Nobody trusts its sender.
    Untrusted,
    /// A policy denies the client.
    Denied,
    /// The header did not come in time.
    Timeout,
    /// It ended before its header.
    Closed,
    /// There are as many as there may be.
    Limit,
    /// No upstream could be reached.
    Upstream,
}

impl Refusal {
    /// Every one.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::Untrusted,
            Self::Denied,
            Self::Timeout,
            Self::Closed,
            Self::Limit,
            Self::Upstream,
        ];
        proxy::Reason::ALL
            .into_iter()
            .map(Self::Header)
            .chain(others)
    }

    /// The word for it in metrics and logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Header(reason) => reason.name(),
            Self::Untrusted => "untrusted",
            Self::Denied => "denied",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Limit => "limit",
            Self::Upstream => "upstream",
        }
    }
}

/// The first bytes of a connection: its header, if it has one, and payload.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    bytes: Vec<u8>,
    /// How many of them are the header.
    len: usize,
}

impl Greeting {
    /// Reads until the header is complete.
    pub(super) async fn read(stream: &TcpStream, limit: Duration) -> Result<Self, Refusal> {
        time::timeout(limit, Self::read_all(stream))
            .await
            .unwrap_or(Err(Refusal::Timeout))
    }

    async fn read_all(stream: &TcpStream) -> Result<Self, Refusal> {
        let mut bytes = Vec::with_capacity(ROOM);
        loop {
            match proxy::parse(&bytes) {
                Parsed::Header(Header { len, .. }) => return Ok(Self { bytes, len }),
                Parsed::Error(reason) => return Err(Refusal::Header(reason)),
                Parsed::Incomplete(wanted) => bytes.reserve(wanted - bytes.len()),
            }
            match read(stream, &mut bytes).await {
                Ok(0) | Err(_) => return Err(Refusal::Closed),
                Ok(_) => {}
            }
        }
    }

    /// For whom the sender speaks; `None` without a header.
    pub(super) fn peer(&self) -> Option<Peer> {
        Some(self.header()?.peer)
    }

    /// What else it says.
    pub(super) fn details(&self) -> Option<Details> {
        Details::read(self.header()?.tlvs)
    }

    /// What follows the header.
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[self.len..]
    }

    fn header(&self) -> Option<Header<'_>> {
        match proxy::parse(&self.bytes[..self.len]) {
            Parsed::Header(header) => Some(header),
            Parsed::Incomplete(_) | Parsed::Error(_) => None,
        }
    }

    /// The header by which the next hop is told of `peer`, with all that this one's says besides.
    /// `ends` are what version 1, which cannot say that the sender speaks for itself, names then.
    pub(super) fn next(&self, send: Send, peer: Peer, ends: proxy::Endpoints) -> Vec<u8> {
        let mut out = Vec::new();
        match (send, peer) {
            (Send::ProxyV1, Peer::Proxied(endpoints)) => write::v1(Some(&endpoints), &mut out),
            (Send::ProxyV1, Peer::Local) => write::v1(Some(&ends), &mut out),
            (Send::ProxyV1, Peer::Unknown) => write::v1(None, &mut out),
            (Send::ProxyV2, peer) => {
                let tlvs = self.header().map(|header| header.tlvs).unwrap_or_default();
                let is_checksum = |tlv: &Tlv<'_>| tlv.kind == kind::CRC32C;
                let has_checksum = tlvs.clone().any(|tlv| is_checksum(&tlv));
                let others = tlvs.filter(|tlv| !is_checksum(tlv));
                write::v2(&peer, others, has_checksum, &mut out)
                    .expect("not longer than what came in");
            }
            _ => {}
        }
        out
    }
}

/// Reads what is there, once there is something.
pub(super) async fn read(stream: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read_buf(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}
