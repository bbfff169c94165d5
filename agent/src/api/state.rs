//! The state that the API serves.

use std::{
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use anyhow::Result;
use tokio::sync::{Mutex, mpsc};

use crate::{
    config::AgentSettings,
    connections::{names::Names, origins::Origins, tlv_store::TlvStore},
    observe::{metrics::Metrics, statistics::Statistics},
    workloads::{
        containers::Containers,
        pods::{PodRequest, Pods},
    },
};

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
    /// Requests of the CNI plugin to the agent.
    pub(super) requests: mpsc::Sender<PodRequest>,
    pub(super) started: SystemTime,
    /// Held during a look-up of processes, so that many callers do not load the host.
    snapshot: Mutex<()>,
}

impl State {
    /// The state of an agent that is starting and not ready yet, and the requests about pods, which wait for an answer.
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
            tlvs: Arc::default(),
            pods,
            requests,
            started: SystemTime::now(),
            snapshot: Mutex::default(),
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

    /// Runs `f`, which looks up processes, after all other such calls.
    pub(super) async fn snapshot<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _turn = self.snapshot.lock().await;
        self.blocking(f).await
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
