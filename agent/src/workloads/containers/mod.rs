//! Which pod and container a connection belongs to.
//!
//! Container runtimes keep files about the containers that run ([`bundle`]), and libcni about how it connected them
//! ([`cni_cache`]), so the agent asks no API server. Containers and pods are known by what is never reused, the id of a
//! container and the cookie of a network namespace: a name is true or absent. A cgroup has a container's name if root gave it
//! that name; the cgroups that users may make themselves have none.

mod bundle;
mod cni_cache;
#[cfg(test)]
pub(crate) mod fixtures;
mod inventory;
mod listing;
mod tallies;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use agent_common::Origin;
use anyhow::Result;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use self::inventory::Inventory;
use super::{
    pods::Pods,
    workload::{Sandbox, Workload},
};
use crate::host::netns::Netns;

/// The pods and containers of this host. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Containers(Arc<Mutex<Inventory>>);

impl Containers {
    /// Will look in these directories, some of which may not exist. A pod that their files do not name may be among
    /// `pods`, as the CNI plugin named them.
    pub fn new(directories: &[PathBuf], pods: Pods) -> Self {
        Self(Arc::new(Mutex::new(Inventory::new(directories, pods))))
    }

    /// Looks for containers that have come or gone.
    pub fn refresh(&self) {
        self.lock().refresh();
    }

    /// The sandboxes of the running pods that have a network namespace of their own.
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        self.lock().sandboxes()
    }

    /// Every network namespace that this process can see, and those of pods.
    pub fn namespaces(&self) -> Result<Vec<Netns>> {
        let inventory = self.lock();
        let mut all = Netns::all()?;
        all.extend(inventory.attached.namespaces());
        // A sandbox may have gone meanwhile.
        let sandboxes = inventory.sandboxes().into_iter();
        all.extend(sandboxes.filter_map(|sandbox| Netns::open(&sandbox.netns).ok()));
        all.sort_unstable_by_key(Netns::cookie);
        all.dedup();
        Ok(all)
    }

    /// The workload of a connection in the network namespace with this cookie, whose process is in `cgroup`: the part of
    /// the path that only root can have named.
    pub fn find(&self, netns: u64, cgroup: Option<&str>) -> Option<Arc<Workload>> {
        self.lock().find(netns, cgroup)
    }

    /// The workload of the connection with this origin.
    pub fn of(&self, origin: &Origin) -> Option<Arc<Workload>> {
        self.lock().of(origin)
    }

    /// Counts a connection of a workload that has ended or was refused.
    pub fn count(&self, workload: &Arc<Workload>, is_refused: bool) {
        self.lock().tallies.count(workload, is_refused);
    }

    fn lock(&self) -> MutexGuard<'_, Inventory> {
        self.0.lock().expect("no holder panics")
    }
}

impl Collector for Containers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A copy, so that connections are not held up while it is encoded.
        let tallies = self.lock().tallies.clone();
        tallies.encode(&mut encoder)
    }
}

#[cfg(test)]
mod tests;
