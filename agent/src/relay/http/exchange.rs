//! A request and its answer.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
};

use agent_common::Closed;
use hyper::{Request, StatusCode};

use super::session::Session;
use crate::{
    connections::summary::{HttpRequest, Summary},
    host::clock::now,
    relay::{client::Client, metrics::Direction, reason::RefusalReason},
};

/// A request and its answer. It is dropped when both have ended, and sends a summary of them then.
pub(super) struct Exchange {
    pub(super) session: Arc<Session>,
    pub(super) client: Client,
    /// Nanoseconds since boot.
    since: u64,
    method: String,
    path: String,
    /// Status of the answer; 0 before there is one.
    status: AtomicU16,
    /// Why the client is refused.
    refused: OnceLock<RefusalReason>,
    received: AtomicU64,
    sent: AtomicU64,
    is_received: AtomicBool,
}

impl Exchange {
    /// Begins with the head of a request by this client.
    pub(super) fn begin<B>(session: &Arc<Session>, client: Client, request: &Request<B>) -> Self {
        session.timeouts.begin();
        Self {
            session: session.clone(),
            client,
            since: now(),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            status: AtomicU16::new(0),
            refused: OnceLock::new(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            is_received: AtomicBool::new(false),
        }
    }

    /// Notes the answer's status.
    pub(super) fn answered(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// Counts and notes that the client is refused.
    pub(super) fn refused(&self, reason: RefusalReason) {
        self.session.service.metrics.refused(reason);
        self.refused.get_or_init(|| reason);
    }

    /// Notes that the request has been received to its end.
    pub(super) fn set_received(&self) {
        self.is_received.store(true, Ordering::Relaxed);
    }

    /// Whether the request has been received to its end.
    pub(super) fn is_received(&self) -> bool {
        self.is_received.load(Ordering::Relaxed)
    }

    /// Counts bytes of a body, or of what follows an upgrade.
    pub(super) fn moved(&self, direction: Direction, bytes: usize) {
        let count = match direction {
            Direction::Upstream => &self.received,
            Direction::Downstream => &self.sent,
        };
        count.fetch_add(bytes as u64, Ordering::Relaxed);
        self.session.service.metrics.moved(direction, bytes);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.session.timeouts.end();
        let status = *self.status.get_mut();
        let request = HttpRequest {
            method: std::mem::take(&mut self.method),
            path: std::mem::take(&mut self.path),
            status: (status != 0).then_some(status),
        };
        let closed = Closed {
            origin: self.session.origin(&self.client, self.since),
            closed: now(),
            received: *self.received.get_mut(),
            sent: *self.sent.get_mut(),
            ..Closed::default()
        };
        self.session.service.summaries.tell(Summary {
            request: Some(request),
            refused: self.refused.get().map(|reason| reason.name()),
            ..Summary::new(closed, None)
        });
    }
}
