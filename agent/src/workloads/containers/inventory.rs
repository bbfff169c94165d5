//! The containers and pods that have been found so far.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_common::Origin;
use tracing::debug;

use super::{bundle::Bundle, cni_cache, listing::Listing, tallies::Tallies};
use crate::{
    host::{
        cgroups::{CgroupPath, Cgroups},
        netns::Netns,
    },
    workloads::{
        pods::Pods,
        workload::{Sandbox, Workload},
    },
};

/// How long to wait between two looks at the directories for a workload that is unknown.
const LOOK: Duration = Duration::from_millis(100);
/// How long a container is remembered after its end: until its connections are logged and its counters scraped.
const KEEP: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Inventory {
    directories: Vec<PathBuf>,
    listing: Listing,
    looked: Option<Instant>,
    /// Containers by their ids.
    containers: HashMap<String, Container>,
    /// Ids of sandboxes by the cookies of their network namespaces.
    pods: HashMap<u64, String>,
    /// The pods that the CNI plugin attached.
    pub(super) attached: Pods,
    cgroups: Cgroups,
    pub(super) tallies: Tallies,
}

#[derive(Debug)]
struct Container {
    workload: Option<Arc<Workload>>,
    sandbox: Option<Sandbox>,
    /// Path of its cgroup, until its id is known.
    cgroup: Option<String>,
    /// When it was first missing.
    gone: Option<Instant>,
}

impl Inventory {
    pub(super) fn new(directories: &[PathBuf], attached: Pods) -> Self {
        Self {
            directories: directories.to_vec(),
            attached,
            ..Self::default()
        }
    }

    pub(super) fn refresh(&mut self) {
        self.looked = Some(Instant::now());
        self.list();
        // The record of a connection that ends with its container arrives when the cgroup is gone already.
        let running = self.containers.values_mut().filter(|c| c.gone.is_none());
        for cgroup in running.map(|container| &mut container.cgroup) {
            cgroup.take_if(|path| self.cgroups.remember(path));
        }
    }

    fn list(&mut self) {
        let Some(found) = self.listing.changed(&self.directories) else {
            return;
        };
        for container in self.containers.values_mut() {
            container.gone.get_or_insert_with(Instant::now);
        }
        for (id, path) in found {
            if let Some(container) = self.containers.get_mut(&id) {
                container.gone = None;
                continue;
            }
            match Bundle::read(&path) {
                Ok(bundle) => self.add(id, bundle),
                // The runtime has not written it yet.
                Err(error) => {
                    debug!("{error:#}");
                    self.listing.look_again();
                }
            }
        }
        let is_kept = |c: &Container| c.gone.is_none_or(|gone| gone.elapsed() < KEEP);
        self.containers.retain(|_, container| is_kept(container));
        self.pods.retain(|_, id| self.containers.contains_key(id));
        let attached = self.attached.all();
        let attached = attached.iter().filter_map(|a| Some(a.pod.as_ref()?.into()));
        let live = self.containers.values().filter_map(|c| c.workload.clone());
        self.tallies.retain(live.chain(attached.map(Arc::new)));
    }

    fn add(&mut self, id: String, bundle: Bundle) {
        // CNI connects only sandboxes, each for all containers of its pod.
        let cached = bundle.netns.as_ref();
        let cached = cached.and_then(|_| cni_cache::read(&self.directories, &id));
        let told = || cached.as_ref()?.workload.clone();
        let workload = bundle.workload.or_else(told).map(Arc::new);
        let sandbox = bundle.netns.and_then(|path| {
            // An open handle would keep the namespace alive.
            let netns = Netns::open(&path).inspect_err(|error| debug!("{error:#}"));
            let cached = cached.unwrap_or_default();
            let annotations = bundle.annotations.into_iter().chain(cached.annotations);
            Some(Sandbox {
                id: id.clone(),
                interface: cached.interface,
                network: cached.network,
                netns_cookie: netns.ok()?.cookie(),
                netns: path,
                workload: workload.clone(),
                annotations: annotations.collect(),
            })
        });
        if let Some(sandbox) = &sandbox {
            self.pods.insert(sandbox.netns_cookie, id.clone());
        }
        let container = Container {
            workload,
            sandbox,
            cgroup: bundle.cgroup,
            gone: None,
        };
        self.containers.insert(id, container);
    }

    pub(super) fn sandboxes(&self) -> Vec<Sandbox> {
        let live = self.containers.values().filter(|c| c.gone.is_none());
        let sandboxes = live.filter_map(|c| c.sandbox.as_ref());
        sandboxes.cloned().collect()
    }

    pub(super) fn of(&mut self, origin: &Origin) -> Option<Arc<Workload>> {
        let process = &origin.process;
        let path = (process.pid != 0)
            .then(|| self.cgroups.path(process.cgroup))
            .flatten();
        self.find(origin.netns, path.as_ref().map(CgroupPath::by_root))
    }

    pub(super) fn find(&mut self, netns: u64, cgroup: Option<&str>) -> Option<Arc<Workload>> {
        let found = self.look_up(netns, cgroup);
        let is_due = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK);
        // A pod that is known may have a container that is not.
        let is_known = found.as_ref().is_some_and(|w| w.container.is_some());
        if is_known || !is_due {
            return found;
        }
        self.refresh();
        self.look_up(netns, cgroup)
    }

    fn look_up(&self, netns: u64, cgroup: Option<&str>) -> Option<Arc<Workload>> {
        // The outermost counts: inside its own cgroup, a container may name others as it likes.
        let mut ids = cgroup.into_iter().flat_map(|path| path.split('/'));
        let container = ids.find_map(|name| self.containers.get(container_id(name)));
        let of_container = container.and_then(|container| container.workload.clone());
        of_container.or_else(|| self.pod(netns))
    }

    fn pod(&self, netns: u64) -> Option<Arc<Workload>> {
        let sandbox = self.pods.get(&netns).map(|id| &self.containers[id]);
        let known = sandbox.and_then(|sandbox| sandbox.workload.clone());
        known.or_else(|| {
            let attachment = self.attached.by_netns(netns)?;
            Some(Arc::new(attachment.pod.as_ref()?.into()))
        })
    }
}

/// The id in the name of a container's cgroup: `ID`, or `cri-containerd-ID.scope` under systemd.
fn container_id(cgroup: &str) -> &str {
    let name = cgroup.strip_suffix(".scope").unwrap_or(cgroup);
    name.rsplit('-').next().unwrap_or(name)
}
