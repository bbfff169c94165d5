//! A server whose every call is made when the walk wants it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};
use tests::host::netns::Netns;
use tests::wait::{SOON, eventually};

/// Room for whoever connects.
const BACKLOG: i32 = 128;
/// How long a server that waits for payload waits, in seconds: longer than any connection takes.
const DEFERS: libc::c_int = 60;

/// A listener.
pub(super) struct Server {
    listener: Socket,
    /// The connection that takes the room in its queue.
    filler: Option<TcpStream>,
}

impl Server {
    /// Listens in this namespace. `defers`: whoever connects is accepted when payload comes.
    pub(super) fn new(netns: &Netns, address: SocketAddr, defers: bool) -> Result<Self> {
        let listener = netns.enter(|| -> Result<_> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            if defers {
                defer(&socket)?;
            }
            socket.listen(BACKLOG)?;
            Ok(socket)
        })?;
        Ok(Self {
            listener,
            filler: None,
        })
    }

    /// The queue becomes full, or has room again.
    pub(super) fn turn_queue(&mut self, netns: &Netns) -> Result<()> {
        if self.filler.take().is_some() {
            self.listener.listen(BACKLOG)?;
            self.listener.accept()?;
            return Ok(());
        }
        // One comes by the loopback interface, and no more may.
        let address = self.listener.local_addr()?;
        let address = address.as_socket().context("an address")?;
        let connect = || TcpStream::connect_timeout(&address, SOON.here());
        let mut filler = netns.enter(connect)?;
        filler.write_all(b"-")?;
        self.filler = Some(filler);
        eventually("somebody is in the queue", || {
            let mut polled = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            Ok((poll(&mut polled, PollTimeout::ZERO)? == 1).then_some(()))
        })?;
        Ok(self.listener.listen(0)?)
    }

    /// The connection that was accepted, if any, and whom it is said to come from.
    pub(super) fn accept(&self) -> Result<Option<(Application, SocketAddr)>> {
        if self.filler.is_some() {
            return Ok(None);
        }
        let (socket, peer) = match self.listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            accepted => accepted?,
        };
        socket.set_nonblocking(true)?;
        let application = Application {
            stream: socket.into(),
            received: Vec::new(),
            is_ended: false,
        };
        let peer = peer.as_socket().context("an address")?;
        Ok(Some((application, peer)))
    }
}

/// Has a listener accept connections when payload comes.
fn defer(listener: &Socket) -> io::Result<()> {
    let seconds = DEFERS;
    // SAFETY: the value lives while the call runs, and has the size that is passed.
    let outcome = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An application with a connection.
pub(super) struct Application {
    stream: TcpStream,
    /// What it has read, and whether the end as well.
    pub(super) received: Vec<u8>,
    pub(super) is_ended: bool,
}

impl Application {
    /// Reads what is there.
    pub(super) fn read(&mut self) {
        let mut buffer = [0; 1024];
        // Errors end a connection, which the segments show.
        while let Ok(length) = self.stream.read(&mut buffer) {
            self.received.extend(&buffer[..length]);
            if length == 0 {
                self.is_ended = true;
                break;
            }
        }
    }

    /// Has nothing more to say.
    pub(super) fn finish(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Resets the connection.
    pub(super) fn abort(self) -> Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }
}
