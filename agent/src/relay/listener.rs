//! Accepts a relay's connections.

use std::{
    io,
    net::SocketAddr,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpListener, runtime::Handle, sync::watch, task::JoinHandle, time};
use tracing::{debug, info, warn};

use super::{Service, connection, files, header::Refusal, health};
use crate::connections::origins::Claims;

/// Handshakes that may wait to be accepted; the kernel's `net.core.somaxconn` is the bound.
const BACKLOG: i32 = 65_535;
/// How long to wait when the system has no room for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// A relay's listening socket; closed on drop.
pub(super) struct Listener {
    /// Namespace and address.
    pub(super) key: (Option<PathBuf>, SocketAddr),
    /// The namespace that this path named.
    netns: Option<u64>,
    service: watch::Sender<Arc<Service>>,
    handle: Handle,
    accept: JoinHandle<()>,
    health: JoinHandle<()>,
}

impl Listener {
    /// Accepts connections from `socket` on the threads of `handle`.
    pub(super) fn start(
        key: (Option<PathBuf>, SocketAddr),
        socket: std::net::TcpListener,
        service: Arc<Service>,
        handle: Handle,
    ) -> Self {
        let health = handle.spawn(health::watch(service.clone()));
        let netns = key.0.as_deref().and_then(inode);
        let (sender, receiver) = watch::channel(service);
        let accept = handle.spawn(async move {
            match TcpListener::from_std(socket) {
                Ok(listener) => accept(listener, receiver).await,
                Err(error) => warn!("cannot accept connections: {error}"),
            }
        });
        Self {
            key,
            netns,
            service: sender,
            handle,
            accept,
            health,
        }
    }

    /// Whether its path names another namespace now.
    pub(super) fn is_outdated(&self) -> bool {
        let now = self.key.0.as_deref().and_then(inode);
        now.is_some() && now != self.netns
    }

    /// Serves connections that are accepted from now on in this way.
    pub(super) fn serve(&mut self, service: Arc<Service>) {
        self.health.abort();
        self.health = self.handle.spawn(health::watch(service.clone()));
        self.service.send_replace(service);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accept.abort();
        self.health.abort();
    }
}

fn inode(netns: &Path) -> Option<u64> {
    netns.metadata().ok().map(|metadata| metadata.ino())
}

/// A socket that listens on `address` in the calling thread's namespace; `[::]` takes IPv4 as well.
pub(super) fn listen(address: SocketAddr, claims: &dyn Claims) -> Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        None,
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    claims
        .follow(socket.as_fd())
        .context("the data path cannot follow it")?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn accept(listener: TcpListener, mut settings: watch::Receiver<Arc<Service>>) {
    let open = Arc::new(AtomicU32::new(0));
    let mut is_full = false;
    loop {
        let accepted = listener.accept().await;
        let service = settings.borrow_and_update().clone();
        if accepted.is_ok() && std::mem::take(&mut is_full) {
            info!("{} accepts connections again", service.name);
        }
        match accepted {
            Ok((stream, peer)) => match Open::one_of(service.relay.max_connections, &open) {
                Some(one) if files::has_room_for_connection(&stream) => {
                    let settings = settings.clone();
                    tokio::spawn(async move {
                        connection::serve(&service, stream, peer, settings).await;
                        drop(one);
                    });
                }
                _ => connection::refuse(&service, &stream, peer, Refusal::Limit.into()),
            },
            Err(error) if is_of_one_connection(&error) => debug!("{}: {error}", service.name),
            Err(error) => {
                if !std::mem::replace(&mut is_full, true) {
                    warn!("{} cannot accept connections: {error}", service.name);
                }
                time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether a connection failed before it could be accepted (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// An open connection, counted until dropped.
struct Open(Arc<AtomicU32>);

impl Open {
    /// Another one, unless there are as many as there may be.
    fn one_of(limit: u32, open: &Arc<AtomicU32>) -> Option<Self> {
        let before = open.fetch_add(1, Ordering::Relaxed);
        let one = Self(open.clone());
        (before < limit).then_some(one)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
