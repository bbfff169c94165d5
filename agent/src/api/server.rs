//! The API's listeners and routes.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    routing::{get, post},
};
use tokio::net::{TcpListener, UnixListener};

use super::{
    answer, caller::Caller, door::Door, health, peers, places::Account, pods, reload, report,
    socket::Socket, state::State,
};
use crate::host::{inherited::Inherited, netns::Netns};

/// The API's sockets, bound but not served yet.
pub struct Server {
    unix: UnixListener,
    pub(super) tcp: Option<TcpListener>,
    /// Removes the socket's file when dropped.
    _socket: Socket,
}

impl Server {
    /// Binds the Unix socket, and the TCP address of metrics and health, unless it has inherited a socket there.
    ///
    /// # Errors
    ///
    /// When another agent uses them, or they cannot be bound.
    pub async fn bind(
        socket: &Path,
        metrics: Option<SocketAddr>,
        inherited: &mut Inherited,
    ) -> Result<Self> {
        let tcp = match metrics {
            None => None,
            Some(address) => Some(listen(address, inherited).await.with_context(|| {
                format!(
                    "cannot serve metrics at {address}: free the address, or set `metrics` to another \
                     or to \"off\""
                )
            })?),
        };
        let (unix, socket) = Socket::bind(socket)?;
        Ok(Self {
            unix,
            tcp,
            _socket: socket,
        })
    }

    /// Answers until the future is dropped.
    pub async fn serve(self, state: Arc<State>) -> Result<()> {
        let observe = Router::new()
            .route("/metrics", get(health::scrape))
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(health::readiness));
        let all = observe
            .clone()
            .route("/v1/peers", get(peers::list))
            .route("/v1/peer", get(peers::find))
            .route("/v1/pods", get(pods::list))
            .route("/v1/pod", get(pods::act).put(pods::act).delete(pods::act))
            .route("/v1/reload", post(reload::act))
            .route("/v1/top", get(peers::top))
            .route("/v1/status", get(report::status));
        let finish = |router: Router<Arc<State>>| {
            router
                .fallback(answer::unknown_path)
                .method_not_allowed_fallback(answer::unknown_method)
                .with_state(state.clone())
        };
        let door = Door::new(state.metrics.api_refusals.clone());
        let local = door.serve(self.unix, finish(all), |stream, _| {
            let caller = Caller::of(stream);
            (caller, caller.account())
        });
        let remote = async {
            if let Some(tcp) = self.tcp {
                let who =
                    |_: &_, peer: &SocketAddr| (Caller::default(), Account::of_address(peer.ip()));
                door.serve(tcp, finish(observe), who).await;
            }
        };
        tokio::join!(local, remote);
        Ok(())
    }
}

async fn listen(address: SocketAddr, inherited: &mut Inherited) -> Result<TcpListener> {
    match inherited.take(address, Netns::current()?.cookie()) {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            Ok(TcpListener::from_std(listener)?)
        }
        None => Ok(TcpListener::bind(address).await?),
    }
}
