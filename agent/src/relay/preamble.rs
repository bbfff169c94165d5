//! The PROXY header at the beginning of a connection, and the one that goes to the next hop.

use std::{io, time::Duration};

use agent_common::proxy::{self, Header, Parsed, Peer, Tlv, kind, write};
use tokio::{net::TcpStream, time};

use super::reason::RefusalReason;
use crate::{config::Send, connections::proxy_tlvs::ProxyTlvs};

/// Room for a header with the first payload: what one segment carries, as a rule.
const ROOM: usize = 1460;

/// The first bytes of a connection: its PROXY header, if it has one, and the payload that was read with it.
#[derive(Debug, Default)]
pub(super) struct Preamble {
    bytes: Vec<u8>,
    /// Length of the header; the rest is payload.
    header_len: usize,
}

impl Preamble {
    /// Reads until the header is complete, for `limit` at most.
    pub(super) async fn read(stream: &TcpStream, limit: Duration) -> Result<Self, RefusalReason> {
        time::timeout(limit, Self::read_all(stream))
            .await
            .unwrap_or(Err(RefusalReason::Timeout))
    }

    async fn read_all(stream: &TcpStream) -> Result<Self, RefusalReason> {
        let mut bytes = Vec::with_capacity(ROOM);
        loop {
            match proxy::parse(&bytes) {
                Parsed::Header(Header { len, .. }) => {
                    return Ok(Self {
                        bytes,
                        header_len: len,
                    });
                }
                Parsed::Error(reason) => return Err(RefusalReason::Header(reason)),
                Parsed::Incomplete(wanted) => bytes.reserve(wanted - bytes.len()),
            }
            match read_some(stream, &mut bytes).await {
                Ok(0) | Err(_) => return Err(RefusalReason::Closed),
                Ok(_) => {}
            }
        }
    }

    /// The client that the sender speaks for; `None` without a header.
    pub(super) fn peer(&self) -> Option<Peer> {
        Some(self.header()?.peer)
    }

    /// The TLVs of the header, if truepeer knows what any of them means.
    pub(super) fn tlvs(&self) -> Option<ProxyTlvs> {
        ProxyTlvs::read(self.header()?.tlvs)
    }

    /// The bytes that follow the header.
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[self.header_len..]
    }

    fn header(&self) -> Option<Header<'_>> {
        match proxy::parse(&self.bytes[..self.header_len]) {
            Parsed::Header(header) => Some(header),
            Parsed::Incomplete(_) | Parsed::Error(_) => None,
        }
    }

    /// The header that tells the next hop of `peer`; empty when `send` is not by PROXY header. Version 2
    /// repeats all TLVs that came in. Version 1 cannot say that the sender speaks for itself, and names
    /// `ends` then.
    pub(super) fn next_header(&self, send: Send, peer: Peer, ends: proxy::Endpoints) -> Vec<u8> {
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

/// Appends to `bytes` what has arrived, as soon as something has. The result is the number of bytes; 0 means
/// that the stream has ended.
pub(super) async fn read_some(stream: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read_buf(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}
