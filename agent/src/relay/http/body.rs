//! Bodies that pass through, counted.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http_body_util::{Either, Full};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use super::{exchange::Exchange, expect::Gate};
use crate::relay::metrics::Direction;

/// The body of a request or an answer. It keeps its exchange from ending.
pub(super) struct Body {
    /// What must come before it is read; `None`: nothing any more.
    gate: Option<Gate>,
    inner: Either<Incoming, Full<Bytes>>,
    exchange: Arc<Exchange>,
    direction: Direction,
}

impl Body {
    /// A body that passes through.
    pub(super) fn passing(inner: Incoming, exchange: Arc<Exchange>, direction: Direction) -> Self {
        let body = Self {
            gate: None,
            inner: Either::Left(inner),
            exchange,
            direction,
        };
        body.note_end(false);
        body
    }

    /// Nothing of it is read before the gate opens.
    pub(super) fn behind(self, gate: Gate) -> Self {
        Self {
            gate: Some(gate),
            ..self
        }
    }

    /// A text of the relay's own for the client.
    pub(super) fn text(text: String, exchange: Arc<Exchange>) -> Self {
        Self {
            gate: None,
            inner: Either::Right(Full::from(text)),
            exchange,
            direction: Direction::Downstream,
        }
    }

    /// Notes whether the request has been received to its end. The body must tell by itself, as nobody asks
    /// for another frame once the announced length is reached.
    fn note_end(&self, is_over: bool) {
        if self.direction == Direction::Upstream && (is_over || self.inner.is_end_stream()) {
            self.exchange.set_received();
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
        if let Some(gate) = &mut self.gate {
            ready!(gate.as_mut().poll(context));
            self.gate = None;
        }
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
