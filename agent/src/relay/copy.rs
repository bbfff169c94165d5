//! Moves bytes both ways until both ends are done.
//!
//! By `splice()` through a pipe, so that no byte enters user space: measured on loopback with Linux 6.18, it
//! moves 2.5 times as many bytes per CPU second as tokio's `copy_bidirectional` with buffers of 64 KiB, and
//! 4.5 times as many as with its own of 8 KiB. Messages of 100 bytes cost 6 % more.
//!
//! A sockmap (`sk_skb` verdict and redirect) moves 0.8 times as many bytes per CPU second for one connection and 0.65
//! times as many for a hundred. Nor does it hold back a sender that is faster than its receiver (kernel memory grows
//! until there is none), nor pass on what came before the sockets were joined, until more comes.

use std::{
    io,
    net::Shutdown,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::pipe2,
};
use socket2::SockRef;
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{self, Instant},
};

use super::{Service, files, metrics::Direction};

/// How much a pipe holds, and one `splice()` moves at most. A quarter, which is the default, needs 1.5
/// times the CPU time; four times as much gain nothing.
const CHUNK: usize = 256 << 10;
/// Pipes that are kept for reuse.
const SPARE: usize = 64;
/// How long to wait when no further file can be open: for a pipe of another connection.
const PAUSE: Duration = Duration::from_millis(10);

/// Copies between `client` and `upstream` until both have ended their stream. Each end's half of the
/// stream is closed as soon as the other's is. An error: one of them broke off, or nothing has moved for
/// the idle timeout.
pub(super) async fn both(
    service: &Service,
    client: &TcpStream,
    upstream: &TcpStream,
) -> io::Result<()> {
    let moved = LastMove::now();
    let one = |direction| {
        let (moved, metrics) = (&moved, &service.metrics);
        move |bytes| {
            moved.note();
            metrics.moved(direction, bytes);
        }
    };
    let up = one_way(client, upstream, &service.pipes, one(Direction::Upstream));
    let down = one_way(upstream, client, &service.pipes, one(Direction::Downstream));
    tokio::select! {
        copied = async { tokio::try_join!(up, down) } => copied.map(drop),
        () = moved.long_ago(service.relay.idle_timeout) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// When bytes were last moved.
pub(super) struct LastMove {
    start: Instant,
    /// Milliseconds after the start.
    moved: AtomicU64,
}

impl LastMove {
    pub(super) fn now() -> Self {
        Self {
            start: Instant::now(),
            moved: AtomicU64::new(0),
        }
    }

    pub(super) fn note(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.moved.store(now, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// Returns when nothing has moved for so long.
    pub(super) async fn long_ago(&self, limit: Duration) {
        loop {
            let end = self.last() + limit;
            if end <= Instant::now() {
                return;
            }
            time::sleep_until(end).await;
        }
    }
}

/// Copies in one direction. A pipe is held only while bytes are on their way.
async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    pipes: &Pipes,
    moved: impl Fn(usize),
) -> io::Result<()> {
    loop {
        from.readable().await?;
        let pipe = pipes.take().await?;
        loop {
            match from.try_io(Interest::READABLE, || shift(from, &pipe.1)) {
                Ok(0) => {
                    pipes.give_back(pipe);
                    return close_half(to);
                }
                Ok(bytes) => {
                    let mut left = bytes;
                    while left > 0 {
                        left -= to
                            .async_io(Interest::WRITABLE, || shift(&pipe.0, to))
                            .await?;
                    }
                    moved(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        pipes.give_back(pipe);
    }
}

/// Moves what there is from or to a pipe, within the kernel.
fn shift(from: &impl AsFd, to: &impl AsFd) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(splice(from, None, to, None, CHUNK, flags)?)
}

fn close_half(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).shutdown(Shutdown::Write) {
        // It has been reset, which the other direction tells.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}

/// Empty pipes.
#[derive(Default)]
pub(super) struct Pipes(Mutex<Vec<Pipe>>);

/// The end to read from and the end to write to.
type Pipe = (OwnedFd, OwnedFd);

impl Pipes {
    async fn take(&self) -> io::Result<Pipe> {
        loop {
            let spare = self.0.lock().expect("no holder panics").pop();
            if let Some(pipe) = spare {
                return Ok(pipe);
            }
            match pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK) {
                Ok(pipe) if files::has_room_for_pipe(&pipe.1) => {
                    // An error: it moves less at a time.
                    let _ = fcntl(&pipe.0, FcntlArg::F_SETPIPE_SZ(CHUNK as i32));
                    return Ok(pipe);
                }
                Ok(_) | Err(Errno::EMFILE | Errno::ENFILE) => time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn give_back(&self, pipe: Pipe) {
        let mut spare = self.0.lock().expect("no holder panics");
        if spare.len() < SPARE {
            spare.push(pipe);
        }
    }
}
