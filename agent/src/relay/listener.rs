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

use super::{
    activity::KEEPALIVE, connection, health, reason::RefusalReason, refuse::refuse,
    service::Service,
};
use crate::{
    connections::origins::Claims,
    host::{descriptors, inherited::Kept},
};

/// How many connections may wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// How long to wait before the next attempt when the system has no room for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// A relay's listening socket and the tasks that serve it. Dropping it closes the socket and leaves
/// connections in progress alone.
pub(super) struct Listener {
    /// Path of the namespace, and address.
    pub(super) key: (Option<PathBuf>, SocketAddr),
    /// Inode of the namespace that the path named at the start.
    netns: Option<u64>,
    kept: Kept,
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
        let kept = Kept::keep(&socket);
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
            kept,
            service: sender,
            handle,
            accept,
            health,
        }
    }

    /// Whether the path of its namespace names another one by now.
    pub(super) fn is_outdated(&self) -> bool {
        let now = self.key.0.as_deref().and_then(inode);
        now.is_some() && now != self.netns
    }

    /// Closes it for good: no later agent accepts what waits there.
    pub(super) fn close(&self) {
        self.kept.forget();
    }

    /// Serves connections that it accepts from now on by these settings. If they are those that it has, its connections keep
    /// their place between two requests, and what is known of its upstreams is not forgotten.
    pub(super) fn serve(&mut self, service: Arc<Service>) {
        if self.service.borrow().is_like(&service) {
            return;
        }
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

/// Inode of the namespace that a path names; `None` when there is none.
fn inode(netns: &Path) -> Option<u64> {
    netns.metadata().ok().map(|metadata| metadata.ino())
}

/// A socket that listens on `address` in the calling thread's namespace. `[::]` also accepts IPv4. The data
/// path follows the connections that it accepts.
///
/// # Errors
///
/// When the address is taken or foreign, or when the data path cannot follow the socket.
pub(super) fn listen(address: SocketAddr, claims: &dyn Claims) -> Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    let listener = prepare(socket, claims)?;
    listener.listen(BACKLOG)?;
    Ok(listener.into())
}

/// Makes a socket that listens already, whoever made it, one that [`Listener::start`] takes.
///
/// # Errors
///
/// When the data path cannot follow it.
pub(super) fn take_up(
    listener: std::net::TcpListener,
    claims: &dyn Claims,
) -> Result<std::net::TcpListener> {
    Ok(prepare(listener.into(), claims)?.into())
}

fn prepare(socket: Socket, claims: &dyn Claims) -> Result<Socket> {
    socket.set_nonblocking(true)?;
    // What the server asks by itself ends at the relay. Accepted connections inherit this.
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    claims
        .follow(socket.as_fd())
        .context("the data path cannot follow it")?;
    Ok(socket)
}

/// Accepts connections for ever, and serves each by the settings of the moment.
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
            Ok((stream, peer)) => match Place::take(service.relay.max_connections, &open) {
                Some(place) if descriptors::has_room_for_connection(&stream) => {
                    let settings = settings.clone();
                    tokio::spawn(async move {
                        connection::serve(&service, stream, peer, settings).await;
                        drop(place);
                    });
                }
                _ => refuse(&service, &stream, peer, RefusalReason::Limit.into()),
            },
            Err(error) if concerns_one_connection(&error) => debug!("{}: {error}", service.name),
            Err(error) => {
                if !std::mem::replace(&mut is_full, true) {
                    warn!("{} cannot accept connections: {error}", service.name);
                }
                time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether only the connection failed that was about to be accepted (accept(2)).
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// One of the places that a listener has for open connections, free again when dropped.
struct Place(Arc<AtomicU32>);

impl Place {
    /// Takes a place; `None` when `limit` places are taken.
    fn take(limit: u32, taken: &Arc<AtomicU32>) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let place = Self(taken.clone());
        (before < limit).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
