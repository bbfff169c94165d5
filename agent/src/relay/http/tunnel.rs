//! What follows a switch to another protocol.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tracing::debug;

use super::exchange::Exchange;
use crate::relay::metrics::Direction;

/// Moves bytes both ways after a switch, until both ends are done or nothing moves for the idle timeout.
pub(super) async fn tunnel(exchange: Arc<Exchange>, client: OnUpgrade, upstream: OnUpgrade) {
    let session = &*exchange.session;
    let copy = async {
        let (client, upstream) = tokio::try_join!(client, upstream)?;
        let end = |upgraded, direction| End {
            io: TokioIo::new(upgraded),
            exchange: &exchange,
            direction,
        };
        let mut client = end(client, Direction::Downstream);
        let mut upstream = end(upstream, Direction::Upstream);
        copy_bidirectional(&mut client, &mut upstream).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    tokio::select! {
        copied = copy => if let Err(error) = copied {
            debug!("{}: {error}", session.service.name);
        },
        () = session.timeouts.activity.idle_for(session.service.relay.idle_timeout) => {}
    }
}

/// One end of a switched connection. What is written to it is counted at once, however the connection ends.
struct End<'a> {
    io: TokioIo<Upgraded>,
    exchange: &'a Exchange,
    /// Which way bytes move that are written to this end.
    direction: Direction,
}

impl AsyncRead for End<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for End<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.exchange.moved(self.direction, *bytes);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
