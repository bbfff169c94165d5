//! One relayed connection.

use std::{net::SocketAddr, os::fd::AsFd as _, time::Duration};

use agent_common::{
    Closed, Endpoint, Evidence, Origin,
    origin::rule_id,
    proxy::{Endpoints, Peer},
};
use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use socket2::SockRef;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time};
use tracing::debug;

use super::{
    Service, copy,
    header::{Greeting, Refusal},
    upstream,
};
use crate::{config::Accept, ended::Ended};

/// For whom a connection is relayed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// The client, and where it wanted to go.
    pub(super) endpoints: Endpoints,
    /// How that is known.
    pub(super) evidence: Evidence,
    /// The rule by which it is.
    pub(super) rule: u32,
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
        let canonical = |end: Endpoint| end.socket_addr().into();
        let ends = client.map_or(self.ends, |client| client.endpoints);
        Ok(Origin {
            since: Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?).as_nanos() as u64,
            netns: crate::netns::cookie_of(stream.as_fd())?,
            client: ends.source,
            original_dst: ends.destination,
            local: canonical(self.ends.destination),
            remote: canonical(self.ends.source),
            rule: client.map_or(0, |client| client.rule),
            evidence: client.map_or(0, |client| client.evidence as u8),
            ..Origin::default()
        })
    }
}

/// Relays a connection to its end. `peer` is what `accept()` returned.
pub(super) async fn serve(service: &Service, stream: TcpStream, peer: SocketAddr) {
    let _open = service.metrics.opened();
    let upstream = match establish(service, &stream, peer).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(refused)) => return refuse(service, &stream, peer, refused),
        Err(error) => {
            debug!("{}: {peer}: {error:#}", service.name);
            return reset(&stream);
        }
    };
    if let Err(error) = copy::both(service, &stream, &upstream).await {
        debug!("{}: {peer}: {error}", service.name);
        // As the one end broke off, so does the other.
        reset(&upstream);
        reset(&stream);
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
        closed,
        refused: Some(refused.why.name()),
        details: service.details.take(accepted.cookie),
    });
    Ok(())
}

/// Has the socket reset its connection when it is dropped.
fn reset(stream: &TcpStream) {
    // An error: it is reset already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Learns the client and connects to an upstream, which is told.
async fn establish(
    service: &Service,
    stream: &TcpStream,
    peer: SocketAddr,
) -> Result<Result<TcpStream, Refused>> {
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
    if !service.claims.allows(address, ends.destination.port)? {
        return Ok(Err(Refused {
            why: Refusal::Denied,
            client: Some(client),
        }));
    }
    if client.evidence == Evidence::Proxy {
        learn(service, stream, &accepted, &client, &greeting)?;
    }
    let Some(mut upstream) = upstream::connect(service, &client).await else {
        return Ok(Err(Refused {
            why: Refusal::Upstream,
            client: Some(client),
        }));
    };
    let peer = greeting.peer().unwrap_or(Peer::Proxied(client.endpoints));
    let mut first = greeting.next(service.relay.send, peer, ends);
    first.extend(greeting.payload());
    time::timeout(service.relay.idle_timeout, upstream.write_all(&first)).await??;
    Ok(Ok(upstream))
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
