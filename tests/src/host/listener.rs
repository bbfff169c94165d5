//! A listening socket served by threads, shared by the report server and the small proxy.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::netns::Netns;

/// Further connections are closed at once: a proxy that connects to itself ends here, and not when
/// the host has no threads left.
const CONNECTIONS: usize = 1000;

/// Accepts until dropped; each connection has a thread of its own.
pub struct Listener {
    socket: Socket,
    acceptor: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on `address` inside `netns`. `[::]` serves IPv4 as well. `serve` gets each connection
    /// with what `accept()` returned, on a thread inside `netns`.
    pub fn start<F>(netns: &Netns, address: SocketAddr, transparent: bool, serve: F) -> Result<Self>
    where
        F: Fn(TcpStream, SocketAddr) -> io::Result<()> + Clone + Send + 'static,
    {
        netns
            .enter(|| Self::start_here(address, transparent, serve))
            .with_context(|| format!("in {}", netns.name()))
    }

    /// Listens on `address` in the calling thread's namespace, as [`Self::start`] does inside another.
    pub fn start_here<F>(address: SocketAddr, transparent: bool, serve: F) -> Result<Self>
    where
        F: Fn(TcpStream, SocketAddr) -> io::Result<()> + Clone + Send + 'static,
    {
        let socket =
            listen(address, transparent).with_context(|| format!("listen on {address}"))?;
        let listener = TcpListener::from(socket.try_clone()?);
        // Threads inherit the namespace of the thread that makes them.
        let acceptor = std::thread::spawn(move || {
            let open = Arc::new(());
            // Accepting ends when the socket is shut down.
            while let Ok((stream, peer)) = listener.accept() {
                if Arc::strong_count(&open) > CONNECTIONS {
                    continue;
                }
                let (serve, open) = (serve.clone(), open.clone());
                std::thread::spawn(move || {
                    // A connection that breaks is the client's to notice.
                    let _ = serve(stream, peer);
                    drop(open);
                });
            }
        });
        Ok(Self {
            socket,
            acceptor: Some(acceptor),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// A socket that listens on `address` in the calling thread's namespace.
pub(crate) fn listen(address: SocketAddr, transparent: bool) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if transparent {
        set_transparent(&socket, domain)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket)
}

/// Lets a socket bind addresses that are not this host's.
pub fn set_transparent(socket: &Socket, domain: Domain) -> io::Result<()> {
    if domain == Domain::IPV4 {
        socket.set_ip_transparent_v4(true)
    } else {
        socket.set_ip_transparent_v6(true)
    }
}

/// Turns the IPv4-mapped IPv6 address of a dual-stack socket into the IPv4 address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
