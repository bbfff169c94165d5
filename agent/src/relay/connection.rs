//! One relayed connection.

use std::{net::SocketAddr, os::fd::AsFd as _, sync::Arc, time::Duration};

use agent_common::{
    Closed, Endpoint, Evidence, Origin,
    origin::rule_id,
    proxy::{Endpoints, Peer},
};
use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use socket2::SockRef;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::watch, time};
use tracing::debug;

use super::{
    Service, copy,
    header::{Greeting, Refusal},
    http, upstream,
};
use crate::{
    config::{Accept, Protocol, Send},
    connections::summary::Summary as Ended,
};

/// For whom a connection is relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// The client, and where it wanted to go.
    pub(super) endpoints: Endpoints,
    /// How that is known.
    pub(super) evidence: Evidence,
    /// The rule by which it is.
    pub(super) rule: u32,
}

impl Client {
    /// The record of what it sends by a connection with these ends, since these nanoseconds after boot.
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

    /// The sender itself.
    fn sender(ends: Endpoints) -> Self {
        Self {
            endpoints: ends,
            evidence: Evidence::Wire,
            rule: 0,
        }
    }
}

/// Nanoseconds of `CLOCK_BOOTTIME`, the clock of records.
pub(super) fn now() -> u64 {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME);
    since_boot.map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// Why a connection is not relayed, and its client, if that is known.
pub(super) struct Refused {
    why: Refusal,
    client: Option<Client>,
}

impl From<Refusal> for Refused {
    fn from(why: Refusal) -> Self {
        Self { why, client: None }
    }
}

/// What the data path knows of an accepted connection.
struct Accepted {
    cookie: u64,
    known: Option<Origin>,
    /// The sender and this host.
    ends: Endpoints,
}

impl Accepted {
    /// `peer` is what `accept()` returned.
    fn new(service: &Service, stream: &TcpStream, peer: SocketAddr) -> Result<Self> {
        let cookie = SockRef::from(stream).cookie().context("no cookie")?;
        let known = service.claims.origin(cookie)?;
        // `accept()` may have told the client; trust is in the sender.
        let sender = known.map_or(peer, |origin| origin.remote.socket_addr());
        let ends = Endpoints {
            source: sender.into(),
            destination: stream.local_addr()?.into(),
        };
        Ok(Self {
            cookie,
            known,
            ends,
        })
    }

    /// The record of its client; without one, the evidence is 0, and the client is the sender.
    fn origin(&self, stream: &TcpStream, client: Option<&Client>) -> Result<Origin> {
        let netns = crate::host::netns::cookie_of(stream.as_fd())?;
        Ok(match client {
            Some(client) => client.origin(self.ends, netns, now()),
            None => Origin {
                rule: 0,
                evidence: 0,
                ..Client::sender(self.ends).origin(self.ends, netns, now())
            },
        })
    }
}

/// What the beginning of a connection tells.
pub(super) struct Beginning {
    greeting: Greeting,
    pub(super) client: Client,
    /// The connection's own.
    pub(super) ends: Endpoints,
    /// Cookie of its namespace.
    pub(super) netns: u64,
}

impl Beginning {
    /// What follows the PROXY header.
    pub(super) fn payload(&self) -> &[u8] {
        self.greeting.payload()
    }

    /// The PROXY header, if any, by which the next hop is told of `client`.
    fn next(&self, send: Send, client: &Client) -> Vec<u8> {
        if client.evidence == Evidence::Xff {
            // What the sender said besides is of another client.
            let peer = Peer::Proxied(client.endpoints);
            return Greeting::default().next(send, peer, self.ends);
        }
        let peer = self.greeting.peer();
        let peer = peer.unwrap_or(Peer::Proxied(client.endpoints));
        self.greeting.next(send, peer, self.ends)
    }
}

/// Relays a connection to its end. `peer` is what `accept()` returned; `settings` changes with the
/// configuration, and closes with the listener.
pub(super) async fn serve(
    service: &Arc<Service>,
    stream: TcpStream,
    peer: SocketAddr,
    settings: watch::Receiver<Arc<Service>>,
) {
    let _open = service.metrics.opened();
    let begun = match begin(service, &stream, peer).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(refused)) => return refuse(service, &stream, peer, refused),
        Err(error) => {
            debug!("{}: {peer}: {error:#}", service.name);
            return reset(&stream);
        }
    };
    match &service.relay.protocol {
        Protocol::Tcp => tcp(service, &stream, peer, &begun).await,
        Protocol::Http(http) => {
            http::serve(service.clone(), *http, stream, begun, settings).await;
        }
    }
}

async fn tcp(service: &Service, stream: &TcpStream, peer: SocketAddr, begun: &Beginning) {
    let upstream = match upstream(service, begun, &begun.client).await {
        Ok(Some(upstream)) => upstream,
        Ok(None) => {
            let refused = Refused {
                why: Refusal::Upstream,
                client: Some(begun.client),
            };
            return refuse(service, stream, peer, refused);
        }
        Err(error) => {
            debug!("{}: {peer}: {error:#}", service.name);
            return reset(stream);
        }
    };
    if let Err(error) = copy::both(service, stream, &upstream).await {
        debug!("{}: {peer}: {error}", service.name);
        // As the one end broke off, so does the other.
        reset(&upstream);
        reset(stream);
    }
}

/// Resets a connection, and tells why.
pub(super) fn refuse(service: &Service, stream: &TcpStream, peer: SocketAddr, refused: Refused) {
    let why = refused.why.name();
    debug!("{}: {peer} is refused: {why}", service.name);
    service.metrics.refused(refused.why);
    if let Err(error) = tell(service, stream, peer, &refused) {
        debug!("{}: {peer}: {error:#}", service.name);
    }
    reset(stream);
}

/// Has a refused connection counted and logged.
fn tell(service: &Service, stream: &TcpStream, peer: SocketAddr, refused: &Refused) -> Result<()> {
    let accepted = Accepted::new(service, stream, peer)?;
    let origin = accepted.origin(stream, refused.client.as_ref())?;
    let closed = Closed {
        origin,
        cookie: accepted.cookie,
        closed: origin.since,
        ..Closed::default()
    };
    if service.relay.accept == Accept::Proxy && origin.evidence == Evidence::Proxy as u8 {
        // What was learnt here; else its end would be told, too.
        service.claims.forget(accepted.cookie)?;
    }
    service.refusals.tell(Ended {
        refused: Some(refused.why.name()),
        ..Ended::new(closed, service.details.take(accepted.cookie))
    });
    Ok(())
}

/// Has the socket reset its connection when it is dropped.
fn reset(stream: &TcpStream) {
    // An error: it is reset already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Learns the client.
async fn begin(
    service: &Service,
    stream: &TcpStream,
    peer: SocketAddr,
) -> Result<Result<Beginning, Refused>> {
    stream.set_nodelay(true)?;
    let accepted = Accepted::new(service, stream, peer)?;
    let ends = accepted.ends;
    let (greeting, client) = match service.relay.accept {
        Accept::Plain => (Greeting::default(), plain(service, accepted.known, ends)),
        Accept::Proxy => {
            let Some(rule) = service.trusting_rule(ends.source.socket_addr()) else {
                return Ok(Err(Refusal::Untrusted.into()));
            };
            let greeting = match Greeting::read(stream, service.relay.header_timeout).await {
                Ok(greeting) => greeting,
                Err(refusal) => return Ok(Err(refusal.into())),
            };
            let client = match greeting.peer() {
                Some(Peer::Proxied(endpoints)) => Client {
                    endpoints,
                    evidence: Evidence::Proxy,
                    rule: rule_id(&rule),
                },
                // "The receiver must use the real connection endpoints."
                _ => plain(service, None, ends),
            };
            (greeting, client)
        }
    };
    let Endpoint { address, .. } = client.endpoints.source;
    let is_tcp = service.relay.protocol == Protocol::Tcp;
    // Requests have clients of their own.
    if is_tcp && !service.claims.allows(address, ends.destination.port)? {
        return Ok(Err(Refused {
            why: Refusal::Denied,
            client: Some(client),
        }));
    }
    if client.evidence == Evidence::Proxy {
        learn(service, stream, &accepted, &client, &greeting)?;
    }
    Ok(Ok(Beginning {
        greeting,
        client,
        ends,
        netns: crate::host::netns::cookie_of(stream.as_fd())?,
    }))
}

/// A connection to an upstream in this client's name, which is told; `None` when none can be reached.
pub(super) async fn upstream(
    service: &Service,
    begun: &Beginning,
    client: &Client,
) -> Result<Option<TcpStream>> {
    let Some(mut upstream) = upstream::connect(service, client).await else {
        return Ok(None);
    };
    let mut first = begun.next(service.relay.send, client);
    if service.relay.protocol == Protocol::Tcp {
        first.extend(begun.payload());
    }
    time::timeout(service.relay.idle_timeout, upstream.write_all(&first)).await??;
    Ok(Some(upstream))
}

/// Who connects is the client, unless its connection has an origin.
fn plain(service: &Service, known: Option<Origin>, ends: Endpoints) -> Client {
    let known = known.and_then(|origin| {
        Some(Client {
            endpoints: Endpoints {
                source: origin.client,
                destination: origin.original_dst,
            },
            evidence: Evidence::from_u8(origin.evidence)?,
            rule: origin.rule,
        })
    });
    known.unwrap_or(Client {
        endpoints: ends,
        evidence: Evidence::Wire,
        rule: rule_id(&service.name),
    })
}

/// Records the client of the accepted connection, and what else its header says.
fn learn(
    service: &Service,
    stream: &TcpStream,
    accepted: &Accepted,
    client: &Client,
    greeting: &Greeting,
) -> Result<()> {
    let cookie = accepted.cookie;
    let origin = accepted.origin(stream, Some(client))?;
    // First: from then on, the data path tells when the connection ends.
    if let Some(details) = greeting.details() {
        service.details.keep(cookie, details);
    }
    if let Err(error) = service.claims.learn(cookie, origin) {
        // The map is full, say: the connection works all the same.
        debug!("{}: the origin is not recorded: {error:#}", service.name);
        service.details.take(cookie);
    } else if stream.peer_addr().is_err() {
        // It has closed, and the data path may have seen that before there was anything to remove.
        service.claims.forget(cookie)?;
        service.details.take(cookie);
    }
    Ok(())
}
