//! An application that accepts by io_uring.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread::JoinHandle;

use anyhow::Result;
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::{SockAddr, Socket};

use crate::host::listener::listen;
use crate::host::netns::Netns;
use crate::servers::report::tell;

/// Completions that one call to the kernel may bring.
const ENTRIES: u32 = 8;

/// How it accepts.
#[derive(Clone, Copy, Debug)]
pub enum Accept {
    /// A request for each connection; the completion has the client's address.
    Once,
    /// A request for each connection, which a thread of the kernel carries out (`IORING_SETUP_SQPOLL`).
    OnceByKernelThread,
    /// One request for all connections; `getpeername()` has the client's address.
    Multishot,
}

/// A [`crate::servers::report::Report`] that accepts by io_uring; stops on drop.
pub struct Uring {
    socket: Socket,
    acceptor: Option<JoinHandle<io::Result<()>>>,
}

impl Uring {
    /// Serves `address` inside `netns`.
    pub fn start(netns: &Netns, address: SocketAddr, accept: Accept) -> Result<Self> {
        netns.enter(|| {
            let mut builder = IoUring::builder();
            if matches!(accept, Accept::OnceByKernelThread) {
                builder.setup_sqpoll(1000);
            }
            let ring = builder.build(ENTRIES)?;
            let socket = listen(address, false)?;
            let listener = socket.try_clone()?;
            let acceptor = std::thread::spawn(move || match accept {
                Accept::Once | Accept::OnceByKernelThread => once(ring, &listener),
                Accept::Multishot => multishot(ring, &listener),
            });
            Ok(Self {
                socket,
                acceptor: Some(acceptor),
            })
        })
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // Accepting ends with an error.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn once(mut ring: IoUring, listener: &Socket) -> io::Result<()> {
    loop {
        // SAFETY: the kernel writes an address of the length that it says, before the completion.
        let (stream, address) = unsafe {
            SockAddr::try_init(|storage, length| {
                let fd = Fd(listener.as_raw_fd());
                submit(
                    &mut ring,
                    &opcode::Accept::new(fd, storage.cast(), length).build(),
                )?;
                ring.submit_and_wait(1)?;
                accepted(&next(&mut ring)?)
            })
        }?;
        serve(
            stream,
            address.as_socket().ok_or(io::ErrorKind::InvalidData)?,
        );
    }
}

fn multishot(mut ring: IoUring, listener: &Socket) -> io::Result<()> {
    let request = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).build();
    submit(&mut ring, &request)?;
    loop {
        ring.submit_and_wait(1)?;
        let completion = next(&mut ring)?;
        let stream = accepted(&completion)?;
        if !cqueue::more(completion.flags()) {
            submit(&mut ring, &request)?;
        }
        let peer = stream.peer_addr()?;
        serve(stream, peer);
    }
}

fn submit(ring: &mut IoUring, request: &squeue::Entry) -> io::Result<()> {
    // SAFETY: the listener and the room for an address outlive the request.
    unsafe { ring.submission().push(request) }.map_err(io::Error::other)
}

fn next(ring: &mut IoUring) -> io::Result<cqueue::Entry> {
    let completion = ring.completion().next();
    completion.ok_or_else(|| io::Error::other("no completion"))
}

fn accepted(completion: &cqueue::Entry) -> io::Result<TcpStream> {
    let fd = completion.result();
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: a new descriptor, which nobody else knows.
    Ok(unsafe { TcpStream::from_raw_fd(fd) })
}

fn serve(stream: TcpStream, accepted: SocketAddr) {
    // A connection that breaks is the client's to notice.
    std::thread::spawn(move || tell(stream, accepted));
}
