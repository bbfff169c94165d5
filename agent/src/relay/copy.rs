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

use std::{io, net::Shutdown, os::fd::AsFd, sync::OnceLock};

use nix::fcntl::{SpliceFFlags, splice};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::{
    activity::Activity,
    metrics::Direction,
    pipes::{self, Pipes},
    service::Service,
};

/// Why a direction ended before its stream did.
enum Broken {
    /// The one that is read from broke off.
    Sender(io::Error),
    /// The one that is written to takes nothing more.
    Receiver(io::Error),
}

/// Copies between `client` and `upstream` until both have ended their stream. When one ends its stream, the
/// other's half is closed at once. When the upstream takes nothing more, what it has sent before still reaches
/// the client: a server may refuse a long request before it has read all of it.
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
    let broken = OnceLock::new();
    let up = async {
        match one_way(client, upstream, pipes, count(Direction::Upstream)).await {
            Ok(()) => close_half(upstream),
            Err(Broken::Sender(error)) => Err(error),
            // The other direction ends by itself, as there is nobody to send more.
            Err(Broken::Receiver(error)) => {
                let _ = broken.set(error);
                Ok(())
            }
        }
    };
    let down = async {
        match one_way(upstream, client, pipes, count(Direction::Downstream)).await {
            // The kernel tells of a break once only, and then as if the stream had ended.
            Ok(()) if broken.get().is_some() => Ok(()),
            Ok(()) => close_half(client),
            Err(Broken::Sender(error) | Broken::Receiver(error)) => Err(error),
        }
    };
    tokio::select! {
        copied = async { tokio::try_join!(up, down) } => copied.map(drop)?,
        () = activity.idle_for(service.relay.idle_timeout) => {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    broken.into_inner().map_or(Ok(()), Err)
}

/// Copies in one direction until the stream ends, and tells `moved` how many bytes each time. The pipe goes
/// back as soon as there is nothing more to read, so that silent connections hold none.
async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    pipes: &Pipes,
    moved: impl Fn(usize),
) -> Result<(), Broken> {
    loop {
        from.readable().await.map_err(Broken::Sender)?;
        let pipe = pipes.take().await.map_err(Broken::Sender)?;
        let read = loop {
            match from.try_io(Interest::READABLE, || shift(from, &pipe.input)) {
                Ok(0) => break Ok(()),
                Ok(bytes) => {
                    let mut left = bytes;
                    while left > 0 {
                        left -= to
                            .async_io(Interest::WRITABLE, || shift(&pipe.output, to))
                            .await
                            .map_err(Broken::Receiver)?;
                    }
                    moved(bytes);
                }
                Err(error) => break Err(error),
            }
        };
        pipes.give_back(pipe);
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read.map_err(Broken::Sender),
        }
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
