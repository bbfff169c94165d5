//! Bodies that pass through, counted.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use agent_common::Closed;
use http_body_util::{Either, Full};
use hyper::{
    StatusCode,
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
};

use super::Session;
use crate::{
    connections::summary::{HttpRequest as Request, Summary as Ended},
    relay::{
        connection::{Client, now},
        metrics::Direction,
    },
};

/// A request with its answer; logged when both have ended.
pub(super) struct Exchange {
    pub(super) session: Arc<Session>,
    pub(super) client: Client,
    /// Nanoseconds since boot.
    since: u64,
    method: String,
    path: String,
    status: AtomicU16,
    received: AtomicU64,
    sent: AtomicU64,
    /// The request's body is complete.
    is_complete: AtomicBool,
}

impl Exchange {
    pub(super) fn begin<B>(
        session: &Arc<Session>,
        client: Client,
        request: &hyper::Request<B>,
    ) -> Self {
        session.watch.begin();
        Self {
            session: session.clone(),
            client,
            since: now(),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            status: AtomicU16::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            is_complete: AtomicBool::new(false),
        }
    }

    pub(super) fn answered(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// Whether the request has been received to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Relaxed)
    }

    /// Counts bytes of a body, or of what came after an upgrade.
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
        self.session.watch.end();
        let status = *self.status.get_mut();
        let request = Request {
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
        self.session.service.refusals.tell(Ended {
            request: Some(request),
            ..Ended::new(closed, None)
        });
    }
}

/// The body of a request or an answer.
pub(super) struct Body {
    inner: Either<Incoming, Full<Bytes>>,
    exchange: Arc<Exchange>,
    direction: Direction,
}

impl Body {
    /// One that passes through.
    pub(super) fn passing(inner: Incoming, exchange: Arc<Exchange>, direction: Direction) -> Self {
        let body = Self {
            inner: Either::Left(inner),
            exchange,
            direction,
        };
        body.note_end(false);
        body
    }

    /// Notes whether a request is complete: nobody asks for more once its length is reached.
    fn note_end(&self, is_over: bool) {
        if self.direction == Direction::Upstream && (is_over || self.inner.is_end_stream()) {
            self.exchange.is_complete.store(true, Ordering::Relaxed);
        }
    }

    /// The relay's own text to the client.
    pub(super) fn text(text: String, exchange: Arc<Exchange>) -> Self {
        Self {
            inner: Either::Right(Full::from(text)),
            exchange,
            direction: Direction::Downstream,
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.exchange.moved(self.direction, bytes);
        }
        self.note_end(frame.is_none());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
