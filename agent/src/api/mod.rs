//! The local API: JSON over HTTP/1.1 on a Unix socket, and metrics and health also over TCP.

mod answer;
pub mod client;
mod pods;
mod query;
mod socket;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use anyhow::{Context as _, Result, anyhow};
use axum::{
    Json, Router,
    extract::{ConnectInfo, State as Shared, connect_info::Connected},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
    serve::IncomingStream,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Mutex, mpsc},
};

pub use self::socket::remove_stale;
use self::{
    answer::Failure,
    query::{Ranking, Wanted},
    socket::Socket,
};
use crate::{
    config::AgentSettings,
    connections::{
        names::Names,
        origins::{Origins, Status},
        peers::{self, Peer, View},
        tlv_store::TlvStore,
    },
    host::{netns::Netns, sockets},
    observe::{
        metrics::{self, Metrics},
        statistics::Statistics,
    },
    workloads::{
        containers::Containers,
        pods::{PodRequest, Pods},
    },
};

/// What the API tells from.
pub struct State {
    /// The data path's records.
    pub origins: Arc<dyn Origins>,
    /// The names of the configuration's steers, replaced on reload.
    pub names: Names,
    /// What `/metrics` tells, and whether the agent is ready.
    pub metrics: Metrics,
    /// What PROXY headers said besides addresses.
    pub details: Arc<TlvStore>,
    /// Pods and containers.
    pub containers: Containers,
    /// The pods that are served.
    pub pods: Pods,
    /// What the CNI plugin asks of the agent.
    requests: mpsc::Sender<PodRequest>,
    started: SystemTime,
    /// Held while processes are looked up, so that many callers don't load the host.
    snapshot: Mutex<()>,
}

impl State {
    /// The state of an agent that is starting: not ready yet. Requests about pods wait until they are received.
    pub fn new(
        origins: Arc<dyn Origins>,
        names: Names,
        settings: &AgentSettings,
    ) -> (Arc<Self>, mpsc::Receiver<PodRequest>) {
        let (requests, received) = mpsc::channel(1);
        let pods = Pods::default();
        let containers = Containers::new(&settings.runtimes, pods.clone());
        let statistics = Statistics::new(settings.top);
        let state = Self {
            metrics: Metrics::new(
                origins.clone(),
                names.clone(),
                statistics,
                containers.clone(),
            ),
            containers,
            origins,
            names,
            details: Arc::default(),
            pods,
            requests,
            started: SystemTime::now(),
            snapshot: Mutex::default(),
        };
        (Arc::new(state), received)
    }

    /// Says whether the agent serves: `true` once attached, `false` while it drains.
    pub fn set_ready(&self, ready: bool) {
        self.metrics.ready.store(ready, Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        self.metrics.ready.load(Ordering::Relaxed)
    }
}

/// What `/v1/status` tells.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The agent; none when it is dead and the pins were read.
    pub agent: Option<Agent>,
    /// The data path.
    #[serde(flatten)]
    pub datapath: Status,
    /// Each policy, in the order of the names.
    pub policies: Vec<PolicyTally>,
}

/// What a policy did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyTally {
    /// Its name.
    pub policy: String,
    /// How many connections it let in.
    pub allowed: u64,
    /// How many connections it refused.
    pub denied: u64,
}

impl Report {
    /// What the data path tells, with the names of the configuration.
    pub fn new(agent: Option<Agent>, datapath: Status, names: &Names) -> Self {
        let tallies = datapath.tallies.iter();
        let mut policies: Vec<_> = tallies
            .filter_map(|(rule, [allowed, denied])| {
                Some(PolicyTally {
                    policy: names.policy(*rule)?,
                    allowed: *allowed,
                    denied: *denied,
                })
            })
            .collect();
        policies.sort();
        Self {
            agent,
            datapath,
            policies,
        }
    }
}

/// The agent that answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Agent {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Whether it serves: it is neither starting nor draining.
    pub ready: bool,
    /// When it started (RFC 3339).
    pub started: String,
}

/// The API's sockets, bound and not served yet.
pub struct Server {
    unix: UnixListener,
    tcp: Option<TcpListener>,
    /// Removes the socket at the end.
    _socket: Socket,
}

impl Server {
    /// Binds the Unix socket, and the TCP address of metrics and health.
    ///
    /// # Errors
    ///
    /// When another agent has them, or they cannot be bound.
    pub async fn bind(socket: &Path, metrics: Option<SocketAddr>) -> Result<Self> {
        let tcp = match metrics {
            None => None,
            Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
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
            .route("/metrics", get(scrape))
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readiness));
        let all = observe
            .clone()
            .route("/v1/peers", get(list))
            .route("/v1/peer", get(find))
            .route("/v1/pods", get(pods::list))
            .route("/v1/pod", get(pods::act).put(pods::act).delete(pods::act))
            .route("/v1/top", get(top))
            .route("/v1/status", get(status));
        let finish = |router: Router<Arc<State>>| {
            router
                .fallback(answer::unknown_path)
                .method_not_allowed_fallback(answer::unknown_method)
                .with_state(state.clone())
        };
        let local = axum::serve(
            self.unix,
            finish(all).into_make_service_with_connect_info::<Caller>(),
        );
        let remote = async {
            match self.tcp {
                Some(tcp) => axum::serve(tcp, finish(observe)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = local.into_future() => outcome?,
            outcome = remote => outcome?,
        }
        Ok(())
    }
}

/// Who is at the other end of the Unix socket; `None` where the kernel doesn't say.
#[derive(Clone, Copy, Debug)]
struct Caller {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self {
            uid: credentials.map(|c| c.uid()),
            pid: credentials.and_then(|c| c.pid()).filter(|pid| *pid > 0),
        }
    }
}

impl Caller {
    fn view(self) -> Result<View> {
        let uid = self.uid.context("the kernel does not say who asks")?;
        Ok(View::of(uid))
    }

    /// The caller's network namespace, in which it names addresses.
    fn netns(self) -> Result<Netns> {
        let pid = self.pid.ok_or_else(|| {
            anyhow!("the caller is in another pid namespace: ask by cookie instead of addresses")
        })?;
        let path: PathBuf = format!("/proc/{pid}/ns/net").into();
        Netns::open(&path).context("cannot tell the caller's network namespace")
    }
}

type Answer = Result<Response, Failure>;

async fn list(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Answer {
    let peers = snapshot(&state, move |state| {
        let mut peers = peers::all(
            &*state.origins,
            &state.names,
            &state.containers,
            caller.view()?,
        )?;
        for peer in &mut peers {
            let details = state.details.get(peer.cookie, peer.header);
            peer.proxy = details.map(Arc::unwrap_or_clone);
        }
        Ok(peers)
    });
    Ok(Json(peers.await?).into_response())
}

async fn find(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    uri: Uri,
) -> Answer {
    let wanted = Wanted::try_from(&uri)?;
    let found = snapshot(&state, move |state| -> Result<Option<Peer>> {
        let cookie = match wanted {
            Wanted::Cookie(cookie) => Some(cookie),
            Wanted::Ends { local, remote } => sockets::cookie(&caller.netns()?, local, remote)?,
        };
        let Some(cookie) = cookie else {
            return Ok(None);
        };
        let mut peer = peers::one(
            &*state.origins,
            &state.names,
            &state.containers,
            caller.view()?,
            cookie,
        )?;
        if let Some(peer) = &mut peer {
            let details = state.details.get(cookie, peer.header);
            peer.proxy = details.map(Arc::unwrap_or_clone);
        }
        Ok(peer)
    });
    match found.await? {
        Some(peer) => Ok(Json(peer).into_response()),
        None => Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("no origin is known for {wanted}"),
        )),
    }
}

async fn top(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    uri: Uri,
) -> Answer {
    let Ranking { by, limit } = Ranking::try_from(&uri)?;
    if caller.view()? != View::All {
        let reason = "only root sees the clients of all: ask for /v1/peers instead";
        return Err(Failure::new(StatusCode::FORBIDDEN, reason));
    }
    let top = blocking(&state, move |state| {
        state.metrics.statistics.top(&*state.origins, by, limit)
    });
    Ok(Json(top.await?).into_response())
}

async fn status(Shared(state): Shared<Arc<State>>) -> Answer {
    let report = blocking(&state, |state| {
        let agent = Agent {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            ready: state.is_ready(),
            started: humantime::format_rfc3339_seconds(state.started).to_string(),
        };
        let datapath = state.origins.status()?;
        Ok(Report::new(Some(agent), datapath, &state.names))
    });
    Ok(Json(report.await?).into_response())
}

async fn scrape(Shared(state): Shared<Arc<State>>) -> Answer {
    let text = blocking(&state, |state| state.metrics.encode()).await?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn readiness(Shared(state): Shared<Arc<State>>) -> Response {
    if state.is_ready() {
        "ready\n".into_response()
    } else {
        let text = "not ready: the agent is starting or draining\n";
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

/// Runs what looks up processes; one at a time.
async fn snapshot<T: Send + 'static>(
    state: &Arc<State>,
    f: impl FnOnce(&State) -> Result<T> + Send + 'static,
) -> Result<T> {
    let _turn = state.snapshot.lock().await;
    blocking(state, f).await
}

/// Runs what reads maps and files, beside the async threads.
async fn blocking<T: Send + 'static>(
    state: &Arc<State>,
    f: impl FnOnce(&State) -> Result<T> + Send + 'static,
) -> Result<T> {
    let state = state.clone();
    tokio::task::spawn_blocking(move || f(&state)).await?
}

#[cfg(test)]
mod tests;
