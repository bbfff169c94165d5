//! The client of a relayed connection, and what is known of the connection that it came by.

use std::{net::SocketAddr, os::fd::AsFd as _};

use agent_common::{Endpoint, Evidence, Origin, proxy::Endpoints};
use anyhow::{Context as _, Result};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::service::Service;
use crate::host::{clock::now, netns};

/// On whose behalf the relay connects to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// The client, and the destination that it chose.
    pub(super) endpoints: Endpoints,
    /// How the relay knows.
    pub(super) evidence: Evidence,
    /// Id of the rule by which the relay believes it.
    pub(super) rule: u32,
}

impl Client {
    /// The sender itself, believed by this rule: nobody speaks for another client.
    pub(super) fn sender(ends: Endpoints, rule: u32) -> Self {
        Self {
            endpoints: ends,
            evidence: Evidence::Wire,
            rule,
        }
    }

    /// The client that a record names; `None` when its evidence is of no known kind.
    pub(super) fn recorded(origin: Origin) -> Option<Self> {
        Some(Self {
            endpoints: Endpoints {
                source: origin.client,
                destination: origin.original_dst,
            },
            evidence: Evidence::from_u8(origin.evidence)?,
            rule: origin.rule,
        })
    }

    /// The record of this client for a connection between `ends` in the namespace with the cookie `netns`.
    /// `since` is in nanoseconds since boot.
    pub(super) fn origin(&self, ends: Endpoints, netns: u64, since: u64) -> Origin {
        let canonical = |end: Endpoint| end.socket_addr().into();
        Origin {
            since,
            netns,
            client: self.endpoints.source,
            original_dst: self.endpoints.destination,
            local: canonical(ends.destination),
            remote: canonical(ends.source),
            rule: self.rule,
            evidence: self.evidence as u8,
            ..Origin::default()
        }
    }
}

/// What the kernel and the data path know of an accepted connection.
pub(super) struct Accepted {
    /// Cookie of the socket.
    pub(super) cookie: u64,
    /// The origin that the data path has recorded.
    pub(super) known: Option<Origin>,
    /// The sender and this host, as in the packets.
    pub(super) ends: Endpoints,
    /// Cookie of the socket's namespace.
    pub(super) netns: u64,
}

impl Accepted {
    /// Asks for them; `peer` is what `accept()` returned.
    ///
    /// # Errors
    ///
    /// When the socket or the data path cannot be asked.
    pub(super) fn new(service: &Service, stream: &TcpStream, peer: SocketAddr) -> Result<Self> {
        let cookie = SockRef::from(stream).cookie().context("no cookie")?;
        let known = service.claims.origin(cookie)?;
        // `accept()` may have returned the client's address; the record has the packets' source.
        let sender = known.map_or(peer, |origin| origin.remote.socket_addr());
        let ends = Endpoints {
            source: sender.into(),
            destination: stream.local_addr()?.into(),
        };
        Ok(Self {
            cookie,
            known,
            ends,
            netns: netns::cookie_of(stream.as_fd())?,
        })
    }

    /// The record of the connection's client as of now. While the client is unknown, the record names the
    /// sender, and its evidence is 0.
    pub(super) fn origin(&self, client: Option<&Client>) -> Origin {
        match client {
            Some(client) => client.origin(self.ends, self.netns, now()),
            None => Origin {
                evidence: 0,
                ..Client::sender(self.ends, 0).origin(self.ends, self.netns, now())
            },
        }
    }
}
