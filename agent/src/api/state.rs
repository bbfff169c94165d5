//! The state that the API serves.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use agent_common::Origin;
use anyhow::Result;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{answer::Failure, caller::Caller, round::Rounds};
use crate::{
    config::AgentSettings,
    connections::{
        names::Names,
        origins::{Origins, Status},
        tlv_store::TlvStore,
    },
    host::processes::Owners,
    observe::{metrics::Metrics, statistics::Statistics},
    workloads::{
        containers::Containers,
        pods::{PodRequest, Pods},
    },
};

/// What the agent itself is asked to do.
#[derive(Debug)]
pub enum Request {
    /// By the CNI plugin.
    Pod(PodRequest),
    /// To read its configuration again; where to send the outcome.
    Reload(oneshot::Sender<Result<Reloaded>>),
}

/// What has come of reading the configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether there are changes below `[agent]`, which take effect at the next start.
    pub needs_start: bool,
}

/// What the API serves.
pub struct State {
    /// The data path's records.
    pub origins: Arc<dyn Origins>,
    /// The names of the configuration's rules, which a reload replaces.
    pub names: Names,
    /// The metrics, and whether the agent is ready.
    pub metrics: Metrics,
    /// The TLVs of PROXY headers.
    pub tlvs: Arc<TlvStore>,
    /// Pods and containers.
    pub containers: Containers,
    /// The pods that the agent serves.
    pub pods: Pods,
    requests: mpsc::Sender<Request>,
    pub(super) started: SystemTime,
    /// What costs much to look up.
    owners: Rounds<Owners>,
    entries: Rounds<HashMap<u64, Origin>>,
    datapath: Rounds<Status>,
    texts: Rounds<String>,
}

impl State {
    /// The state of an agent that is starting and not ready yet, and the requests to the agent, which wait for an answer.
    pub fn new(
        origins: Arc<dyn Origins>,
        names: Names,
        settings: &AgentSettings,
    ) -> (Arc<Self>, mpsc::Receiver<Request>) {
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
            tlvs: Arc::default(),
            pods,
            requests,
            started: SystemTime::now(),
            owners: Rounds::default(),
            entries: Rounds::default(),
            datapath: Rounds::default(),
            texts: Rounds::default(),
        };
        (Arc::new(state), received)
    }

    /// Sets whether the agent is ready: from when it is attached until it drains.
    pub fn set_ready(&self, ready: bool) {
        self.metrics.ready.store(ready, Ordering::Relaxed);
    }

    /// Whether the agent is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.metrics.ready.load(Ordering::Relaxed)
    }

    /// Has the agent do something, and waits for the outcome.
    ///
    /// # Errors
    ///
    /// When it stops.
    pub(super) async fn ask_agent<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Failure> {
        let stopping = || {
            let reason = "the agent is stopping";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        };
        let (reply, outcome) = oneshot::channel();
        let sent = self.requests.send(request(reply)).await;
        sent.map_err(|_| stopping())?;
        outcome.await.map_err(|_| stopping())
    }

    /// The processes of all connections.
    pub(super) async fn owners(&self, caller: Caller) -> Result<Arc<Owners>> {
        self.owners.next(caller.is_root(), Owners::snapshot).await
    }

    /// All connections with an origin, by the cookies of their sockets.
    pub(super) async fn entries(&self, caller: Caller) -> Result<Arc<HashMap<u64, Origin>>> {
        let origins = self.origins.clone();
        let find = move || Ok(origins.all()?.into_iter().collect());
        self.entries.next(caller.is_root(), find).await
    }

    /// The data path as it stands.
    pub(super) async fn status(&self, caller: Caller) -> Result<Arc<Status>> {
        let origins = self.origins.clone();
        let find = move || origins.status();
        self.datapath.next(caller.is_root(), find).await
    }

    /// All metrics.
    pub(super) async fn metrics_text(self: &Arc<Self>, caller: Caller) -> Result<Arc<String>> {
        let state = self.clone();
        let find = move || state.metrics.encode();
        self.texts.next(caller.is_root(), find).await
    }

    /// Runs `f`, which reads maps or files, on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let state = self.clone();
        tokio::task::spawn_blocking(move || f(&state)).await?
    }
}
