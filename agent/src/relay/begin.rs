//! The beginning of an accepted connection, from which the relay learns the client.

use std::net::SocketAddr;

use agent_common::{
    Evidence,
    origin::rule_id,
    proxy::{Endpoints, Peer},
    trust::Statement,
};
use anyhow::Result;
use tokio::net::TcpStream;
use tracing::debug;

use super::{
    client::{Accepted, Client},
    preamble::Preamble,
    reason::RefusalReason,
    refuse::Refused,
    service::Service,
};
use crate::config::{Accept, Protocol, Send};

/// What the beginning of a connection tells.
pub(super) struct Beginning {
    preamble: Preamble,
    /// Who sends what follows. Over HTTP, a request may name another client.
    pub(super) client: Client,
    /// The sender and this host, as in the packets.
    pub(super) ends: Endpoints,
    /// Cookie of the socket's namespace.
    pub(super) netns: u64,
}

impl Beginning {
    /// The payload that was read along with the PROXY header.
    pub(super) fn payload(&self) -> &[u8] {
        self.preamble.payload()
    }

    /// The PROXY header that tells the next hop of `client`; empty if the relay sends none.
    pub(super) fn next_header(&self, send: Send, client: &Client) -> Vec<u8> {
        if client.evidence == Evidence::Xff {
            // What else the sender's header says is about another client.
            let peer = Peer::Proxied(client.endpoints);
            return Preamble::default().next_header(send, peer, client.endpoints);
        }
        let peer = self.preamble.peer();
        let peer = peer.unwrap_or(Peer::Proxied(client.endpoints));
        self.preamble.next_header(send, peer, client.endpoints)
    }
}

/// Learns who the client is, and records it if a PROXY header says so. `peer` is what `accept()` returned.
///
/// # Errors
///
/// When the socket fails, or the data path cannot be asked.
pub(super) async fn begin(
    service: &Service,
    stream: &TcpStream,
    peer: SocketAddr,
) -> Result<Result<Beginning, Refused>> {
    stream.set_nodelay(true)?;
    let accepted = Accepted::new(service, stream, peer)?;
    let ends = accepted.ends;
    let port = ends.destination.port;
    let known = accepted.known.and_then(Client::recorded);
    let speaker = known.unwrap_or_else(|| Client::sender(ends, rule_id(&service.name)));
    let (preamble, client) = match service.relay.accept {
        Accept::Plain => (Preamble::default(), speaker),
        Accept::Proxy => {
            let address = speaker.endpoints.source.socket_addr().ip();
            let Some(rule) = service.senders.rule_for(address, Statement::Proxy, port) else {
                return Ok(Err(RefusalReason::Untrusted.into()));
            };
            let preamble = match Preamble::read(stream, service.relay.header_timeout).await {
                Ok(preamble) => preamble,
                Err(reason) => return Ok(Err(reason.into())),
            };
            let client = match preamble.peer() {
                Some(Peer::Proxied(endpoints)) => Client {
                    endpoints,
                    evidence: Evidence::Proxy,
                    rule,
                },
                // The receiver "must use the real connection endpoints" (PROXY protocol, 2.2).
                _ => speaker,
            };
            (preamble, client)
        }
    };
    // Over HTTP, the policy is asked about each request's client.
    if service.relay.protocol == Protocol::Tcp
        && !service
            .claims
            .allows(client.endpoints.source.address, port)?
    {
        return Ok(Err(Refused {
            reason: RefusalReason::Denied,
            client: Some(client),
        }));
    }
    // What the data path knows already, it has recorded.
    if matches!(preamble.peer(), Some(Peer::Proxied(_))) {
        learn(service, stream, &accepted, &client, &preamble)?;
    }
    Ok(Ok(Beginning {
        preamble,
        client,
        ends,
        netns: accepted.netns,
    }))
}

/// Records the client of an accepted connection, and keeps the TLVs of its PROXY header.
fn learn(
    service: &Service,
    stream: &TcpStream,
    accepted: &Accepted,
    client: &Client,
    preamble: &Preamble,
) -> Result<()> {
    let cookie = accepted.cookie;
    let origin = accepted.origin(Some(client));
    // The TLVs come first: once the origin is recorded, the data path may report the connection's end.
    if let Some(tlvs) = preamble.tlvs() {
        service.tlvs.keep(cookie, tlvs);
    }
    if let Err(error) = service.claims.learn(cookie, origin) {
        // The map may be full. The connection works without a record.
        debug!("{}: the origin is not recorded: {error:#}", service.name);
        service.tlvs.take(cookie);
    } else if stream.peer_addr().is_err() {
        // The data path may have seen the connection end before there was a record to remove.
        service.claims.forget(cookie)?;
        service.tlvs.take(cookie);
    }
    Ok(())
}
