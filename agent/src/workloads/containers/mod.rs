//! Which pod and container a connection belongs to.
//!
//! Container runtimes keep files about what runs ([`bundle`]), and libcni about how it was connected
//! ([`cache`]): no API server is asked. What runs is known by what is never used again, the cookie of a
//! network namespace and the id of a container, so a name is true or absent.

mod bundle;
mod cache;
mod known;
mod listing;
mod tally;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use agent_common::Origin;
use anyhow::Result;
use prometheus_client::encoding::EncodeLabelSet;
use serde::{Deserialize, Serialize};

use self::known::Known;
use crate::{
    host::netns::Netns,
    workloads::pods::{ANNOTATIONS, PodName, Pods},
};

/// Pod and container, in Kubernetes' words.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, EncodeLabelSet,
)]
pub struct Workload {
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name; none where only the pod is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl From<&PodName> for Workload {
    fn from(pod: &PodName) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: None,
        }
    }
}

/// `shop/web-0/nginx`, or `shop/web-0`.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.pod)?;
        match &self.container {
            Some(container) => write!(f, "/{container}"),
            None => Ok(()),
        }
    }
}

/// What holds the namespaces of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// CNI's container id.
    pub id: String,
    /// The pod's interface.
    pub interface: String,
    /// Name of the runtime's network; empty where libcni tells none.
    pub network: String,
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Whose it is; none if it is not Kubernetes'.
    pub workload: Option<Arc<Workload>>,
    /// The pod's annotations that begin with [`ANNOTATIONS`], as far as runtime or libcni wrote them down.
    pub annotations: BTreeMap<String, String>,
}

/// What runs on this host. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Containers(Arc<Mutex<Known>>);

impl Containers {
    /// Nothing known yet of what is in these directories. Those that do not exist belong to runtimes that
    /// are not there. What they do not tell, the CNI plugin may have told of `pods`.
    pub fn new(directories: &[PathBuf], pods: Pods) -> Self {
        Self(Arc::new(Mutex::new(Known::new(directories, pods))))
    }

    /// Looks for what has come and gone.
    pub fn refresh(&self) {
        self.lock().refresh();
    }

    /// The pods that run and have a network namespace of their own.
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        self.lock().sandboxes()
    }

    /// Every namespace that this process can see, and those of pods.
    pub fn namespaces(&self) -> Result<Vec<Netns>> {
        let known = self.lock();
        let mut all = Netns::all()?;
        all.extend(known.attached.namespaces());
        // One that has gone meanwhile is left out.
        let sandboxes = known.sandboxes().into_iter();
        all.extend(sandboxes.filter_map(|sandbox| Netns::open(&sandbox.netns).ok()));
        all.sort_unstable_by_key(Netns::cookie);
        all.dedup();
        Ok(all)
    }

    /// Whose a connection is that a process in `cgroup` holds, in the network namespace with this cookie.
    pub fn find(&self, netns: u64, cgroup: Option<&str>) -> Option<Arc<Workload>> {
        self.lock().find(netns, cgroup)
    }

    /// Whose the connection with this origin is.
    pub fn of(&self, origin: &Origin) -> Option<Arc<Workload>> {
        self.lock().of(origin)
    }

    /// Counts a connection that has ended, or was refused.
    pub fn count(&self, workload: &Arc<Workload>, is_refused: bool) {
        self.lock().tallies.count(workload, is_refused);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("no holder panics")
    }
}

/// Those annotations that are truepeer's.
fn own(mut annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations.retain(|key, _| key.starts_with(ANNOTATIONS));
    annotations
}

#[cfg(test)]
pub(crate) mod tests;
