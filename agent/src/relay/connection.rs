//! One relayed connection.

use std::{net::SocketAddr, os::fd::AsFd as _, time::Duration};

use agent_common::{
    Endpoint, Evidence, Origin,
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
use crate::config::Accept;

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

/// Relays a connection to its end. `peer` is what `accept()` returned.
pub(super) async fn serve(service: &Service, stream: TcpStream, peer: SocketAddr) {
    let _open = service.metrics.opened();
    let upstream = match establish(service, &stream, peer).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(refusal)) => return refuse(service, &stream, peer, refusal),
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

/// Resets a connection, and counts why.
pub(super) fn refuse(service: &Service, stream: &TcpStream, peer: SocketAddr, refusal: Refusal) {
    debug!("{}: {peer} is refused: {}", service.name, refusal.name());
    service.metrics.refused(refusal);
    reset(stream);
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
) -> Result<Result<TcpStream, Refusal>> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let cookie = socket.cookie().context("no cookie")?;
    let known = service.claims.origin(cookie)?;
    let local = stream.local_addr()?;
    // `accept()` may have told the client; trust is in the sender.
    let sender = known.map_or(peer, |origin| origin.remote.socket_addr());
    let ends = Endpoints {
        source: sender.into(),
        destination: local.into(),
    };
    let (greeting, client) = match service.relay.accept {
        Accept::Plain => (Greeting::default(), plain(service, known, ends)),
        Accept::Proxy => {
            let Some(rule) = service.trusting_rule(sender) else {
                return Ok(Err(Refusal::Untrusted));
            };
            let greeting = match Greeting::read(stream, service.relay.header_timeout).await {
                Ok(greeting) => greeting,
                Err(refusal) => return Ok(Err(refusal)),
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
    if !service.claims.allows(address, local.port())? {
        return Ok(Err(Refusal::Denied));
    }
    if client.evidence == Evidence::Proxy {
        learn(service, &socket, cookie, &client, ends)?;
    }
    let Some(mut upstream) = upstream::connect(service, &client).await else {
        return Ok(Err(Refusal::Upstream));
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

/// Records the client of the accepted connection.
fn learn(
    service: &Service,
    socket: &SockRef<'_>,
    cookie: u64,
    client: &Client,
    ends: Endpoints,
) -> Result<()> {
    let canonical = |end: Endpoint| end.socket_addr().into();
    let origin = Origin {
        since: Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?).as_nanos() as u64,
        netns: crate::netns::cookie_of(socket.as_fd())?,
        client: client.endpoints.source,
        original_dst: client.endpoints.destination,
        local: canonical(ends.destination),
        remote: canonical(ends.source),
        rule: client.rule,
        evidence: client.evidence as u8,
        ..Origin::default()
    };
    if let Err(error) = service.claims.learn(cookie, origin) {
        // The map is full, say: the connection works all the same.
        debug!("{}: the origin is not recorded: {error:#}", service.name);
    } else if socket.peer_addr().is_err() {
        // It has closed, and the data path may have seen that before there was anything to remove.
        service.claims.forget(cookie)?;
    }
    Ok(())
}
