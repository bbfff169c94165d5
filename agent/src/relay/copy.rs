//! Copies bytes both ways between two connections until both have ended.
//!
//! `splice()` moves them through a pipe, so that no byte enters user space. Measured on loopback with Linux
//! 6.18, this moves 2.5 times as many bytes per CPU second as tokio's `copy_bidirectional` with buffers of
//! 64 KiB, and 4.5 times as many as with its default buffers of 8 KiB. Messages of 100 bytes cost 6 % more.
//!
//! A sockmap (`sk_skb` verdict and redirect) moves 0.8 times as many bytes per CPU second for one connection
//! and 0.65 times as many for a hundred. It does not hold back a sender that is faster than its receiver, so
//! kernel memory grows until there is none left, and what arrived before the sockets were joined waits there
//! until more arrives.

use std::{io, net::Shutdown, os::fd::AsFd};

use nix::fcntl::{SpliceFFlags, splice};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::{
    activity::Activity,
    metrics::Direction,
    pipes::{self, Pipes},
    service::Service,
};

/// Copies between `client` and `upstream` until both have ended their stream. When one ends its stream, the
/// other's half is closed at once.
///
/// # Errors
///
/// When one of them breaks off, or when nothing has moved for the relay's idle timeout.
pub(super) async fn both(
    service: &Service,
    client: &TcpStream,
    upstream: &TcpStream,
) -> io::Result<()> {
    let activity = Activity::start();
    let count = |direction| {
        let (activity, metrics) = (&activity, &service.metrics);
        move |bytes| {
            activity.note();
            metrics.moved(direction, bytes);
        }
    };
    let pipes = &service.pipes;
    let up = one_way(client, upstream, pipes, count(Direction::Upstream));
    let down = one_way(upstream, client, pipes, count(Direction::Downstream));
    tokio::select! {
        copied = async { tokio::try_join!(up, down) } => copied.map(drop),
        () = activity.idle_for(service.relay.idle_timeout) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Copies in one direction, and tells `moved` how many bytes each time. The pipe goes back as soon as there
/// is nothing more to read, so that silent connections hold none.
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
            match from.try_io(Interest::READABLE, || shift(from, &pipe.input)) {
                Ok(0) => {
                    pipes.give_back(pipe);
                    return close_half(to);
                }
                Ok(bytes) => {
                    let mut left = bytes;
                    while left > 0 {
                        left -= to
                            .async_io(Interest::WRITABLE, || shift(&pipe.output, to))
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

/// Moves what is there from a socket into a pipe or from a pipe into a socket, within the kernel.
fn shift(from: &impl AsFd, to: &impl AsFd) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(splice(from, None, to, None, pipes::CAPACITY, flags)?)
}

fn close_half(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).shutdown(Shutdown::Write) {
        // The connection has been reset; the other direction reports that.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}
