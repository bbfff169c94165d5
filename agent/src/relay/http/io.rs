//! A client's connection as hyper reads and writes it, and how long it has been silent.

use std::{
    io::{self, IoSlice, Read as _},
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{self, Instant},
};

use crate::relay::copy::LastMove;

/// By how much a connection with a request in progress outlives the idle timeout, so that the request
/// can be answered that it took too long.
const GRACE: Duration = Duration::from_secs(1);

/// The connection, whose first bytes have been read.
pub(super) struct Io {
    pub(super) stream: Arc<TcpStream>,
    pub(super) first: io::Cursor<Vec<u8>>,
    pub(super) watch: Arc<Watch>,
}

impl Io {
    fn poll_write_with(
        &self,
        context: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => {
                    self.watch.moved.note();
                    return Poll::Ready(done);
                }
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let first = self.first.read(buffer.initialize_unfilled())?;
        if first > 0 {
            buffer.advance(first);
            self.watch.received();
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(bytes) => {
                    buffer.advance(bytes);
                    self.watch.received();
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

/// What a connection waits for, and since when.
pub(super) struct Watch {
    pub(super) moved: LastMove,
    state: Mutex<State>,
    begun: Notify,
}

#[derive(Default)]
struct State {
    /// Requests in progress.
    requests: usize,
    /// Since when there is a part of the next one's head.
    head: Option<Instant>,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// The rest of a request's head.
    Head,
    /// Anything.
    Idle,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            moved: LastMove::now(),
            state: Mutex::default(),
            begun: Notify::new(),
        }
    }

    fn received(&self) {
        self.moved.note();
        let mut state = self.state.lock().expect("no holder panics");
        if state.requests == 0 && state.head.is_none() {
            state.head = Some(Instant::now());
            self.begun.notify_one();
        }
    }

    /// A request's head is complete.
    pub(super) fn begin(&self) {
        let mut state = self.state.lock().expect("no holder panics");
        state.requests += 1;
        state.head = None;
    }

    /// A request has been answered.
    pub(super) fn end(&self) {
        self.state.lock().expect("no holder panics").requests -= 1;
    }

    /// Returns when something has taken too long; without `header`, heads may take as long as anything.
    pub(super) async fn expired(&self, header: Option<Duration>, idle: Duration) -> Expired {
        loop {
            let (deadline, what) = {
                let state = self.state.lock().expect("no holder panics");
                match (state.requests, state.head, header) {
                    (0, Some(since), Some(limit)) => (since + limit, Expired::Head),
                    (0, ..) => (self.moved.last() + idle, Expired::Idle),
                    _ => (self.moved.last() + idle + GRACE, Expired::Idle),
                }
            };
            if deadline <= Instant::now() {
                return what;
            }
            tokio::select! {
                () = time::sleep_until(deadline) => {}
                () = self.begun.notified() => {}
            }
        }
    }
}
