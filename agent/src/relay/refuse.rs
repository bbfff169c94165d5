//! Ends connections that cannot be relayed.

use std::{fmt::Display, net::SocketAddr, time::Duration};

use agent_common::Closed;
use anyhow::Result;
use socket2::SockRef;
use tokio::net::TcpStream;
use tracing::debug;

use super::{
    client::{Accepted, Client},
    reason::RefusalReason,
    service::Service,
};
use crate::connections::summary::Summary;

/// Why a connection is refused, and its client if that is known.
pub(super) struct Refused {
    pub(super) reason: RefusalReason,
    pub(super) client: Option<Client>,
}

impl From<RefusalReason> for Refused {
    fn from(reason: RefusalReason) -> Self {
        Self {
            reason,
            client: None,
        }
    }
}

/// Resets a refused connection, and has it counted and logged. `peer` is what `accept()` returned.
pub(super) fn refuse(service: &Service, stream: &TcpStream, peer: SocketAddr, refused: Refused) {
    let reason = refused.reason.name();
    debug!("{}: {peer} is refused: {reason}", service.name);
    service.metrics.refused(refused.reason);
    if let Err(error) = report(service, stream, peer, &refused) {
        debug!("{}: {peer}: {error:#}", service.name);
    }
    reset(stream);
}

/// Resets a connection that failed.
pub(super) fn abandon(
    service: &Service,
    stream: &TcpStream,
    peer: SocketAddr,
    error: &dyn Display,
) {
    debug!("{}: {peer}: {error:#}", service.name);
    reset(stream);
}

/// Has the socket reset its connection when it is dropped.
pub(super) fn reset(stream: &TcpStream) {
    // This fails when the connection has been reset already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Sends the summary of a refused connection.
fn report(
    service: &Service,
    stream: &TcpStream,
    peer: SocketAddr,
    refused: &Refused,
) -> Result<()> {
    let accepted = Accepted::new(service, stream, peer)?;
    // What was known of the client before the refusal is known of it still.
    let client = refused.client.or(accepted.known.and_then(Client::recorded));
    let origin = accepted.origin(client.as_ref());
    let closed = Closed {
        origin,
        cookie: accepted.cookie,
        closed: origin.since,
        ..Closed::default()
    };
    if accepted.known.is_some() {
        // The data path would report the connection's end a second time.
        service.claims.forget(accepted.cookie)?;
    }
    service.summaries.tell(Summary {
        refused: Some(refused.reason.name()),
        ..Summary::new(closed, service.tlvs.take(accepted.cookie))
    });
    Ok(())
}
