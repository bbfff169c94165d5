//! Who is accepted.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, Socket, Type};
use tests::host::listener::canonical;
use tests::host::netns::Netns;
use tests::proxies::any;

/// A server that closes what it accepts, and remembers whom it saw.
pub(super) struct Watch {
    socket: Socket,
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(netns: &Netns, port: u16) -> Result<Self> {
        let socket = netns.enter(|| -> io::Result<_> {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.bind(&any(port).into())?;
            socket.listen(4096)?;
            Ok(socket)
        })?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (accepting, seeing) = (socket.try_clone()?, seen.clone());
        let acceptor = std::thread::spawn(move || {
            // Accepting ends when the socket is shut down.
            while let Ok((stream, peer)) = accepting.accept() {
                let _ = stream.set_linger(Some(Duration::ZERO));
                let peer = peer.as_socket().expect("an address with a port");
                seeing.lock().expect("no panic").push(canonical(peer));
            }
        });
        Ok(Self {
            socket,
            seen,
            acceptor: Some(acceptor),
        })
    }

    /// Whom it has seen.
    pub(super) fn seen(&self) -> Vec<SocketAddr> {
        self.seen.lock().expect("no panic").clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
