//! Keeps host, configuration and pods the same, one network namespace after the other.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt as _, path::Path};

use agent_common::Namespace;
use anyhow::{Context as _, Result, bail};
use tokio::{runtime::Handle, sync::mpsc::Sender};
use tracing::{info, warn};

use super::{
    losses::Loss,
    plan::{Place, Rules},
    served::{Missing, Served},
    wanted::Wanted,
};
use crate::{
    config::{AccessLogTarget, Config, keys::KeyFile},
    datapath::{Datapath, Unwrapped, end_steered},
    host::{cgroups::cgroup2_mount, netns::Netns},
    route::{self, Item, Journal},
    workloads::containers::Containers,
};

/// What is in place on this host.
pub(super) struct Supervisor {
    pub(super) datapath: Datapath,
    pub(super) journal: Journal,
    /// What is to be done.
    pub(super) wanted: Wanted,
    /// The keys of signed TOA.
    pub(super) keys: Option<KeyFile>,
    /// For the network namespaces of pods in which nothing is to be done.
    pub(super) containers: Containers,
    pub(super) served: BTreeMap<Place, Served>,
    /// The cgroups that the configuration names, and their numbers as they were last seen.
    pub(super) cgroups: BTreeMap<String, Option<u64>>,
    /// Told the namespace when an interface of a served one changes.
    changed: Sender<Place>,
}

impl Supervisor {
    /// Puts in place what is the same for every configuration. To be called within the async runtime.
    pub(super) fn new(
        config: &Config,
        journal: Journal,
        containers: Containers,
        changed: Sender<Place>,
    ) -> Result<Self> {
        let cgroup = cgroup2_mount()?;
        let agent = &config.agent;
        // Only the access log needs the process of a connection; metrics make do with the pod.
        let logs = agent.access_log != AccessLogTarget::Off;
        let datapath = Datapath::open(&agent.bpffs, agent.origins, logs, &cgroup)?;
        Ok(Self {
            datapath,
            journal,
            wanted: Wanted::default(),
            keys: None,
            containers,
            served: BTreeMap::new(),
            cgroups: BTreeMap::new(),
            changed,
        })
    }

    /// Follows the file with the keys, and the clock by which tags are made.
    pub(super) fn follow_keys(&mut self) -> Result<()> {
        let Some(keys) = &mut self.keys else {
            return Ok(());
        };
        keys.follow();
        self.datapath.sign(keys.keys())
    }

    /// Does what is to be done in the namespace at `place`, as the host is now.
    ///
    /// # Errors
    ///
    /// When something cannot be installed, or `missing` says so; then what was in place there stays, unless the namespace
    /// has gone.
    pub(super) fn follow(&mut self, place: &Place, missing: Missing) -> Result<()> {
        if !self.wanted.places().contains(&place.as_deref()) {
            return self.release(place);
        }
        let netns = match Netns::open_or_current(place.as_deref()) {
            Ok(netns) => netns,
            Err(error) => return self.release(place).and(Err(error)),
        };
        let rules = self.wanted.of(place);
        // One thread for all that is done inside.
        let runtime = Handle::current();
        netns.clone().run(|| {
            let _guard = runtime.enter();
            let kind = self.wanted.config.carry_toa.kind;
            let mut served = self.survey(place, netns, &rules, kind, missing)?;
            if let Some(packets) = &mut served.packets {
                packets.load()?;
            }
            let former = self.install(place, served)?;
            self.give_up(place, &former)
        })
    }

    /// Fails with what is missing in the namespace at `place`.
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        if !self.wanted.places().contains(&place.as_deref()) {
            return Ok(());
        }
        let served = self.served.get(place).context("nothing is in place")?;
        let rules = self.wanted.of(place);
        let links = served.netns.links(rules.need_routes())?;
        for (name, job) in rules.jobs(&links) {
            if !served
                .interfaces
                .iter()
                .any(|(n, j, _)| (n.as_str(), *j) == (name, job))
            {
                bail!("interface {name} of {} is missing", served.netns);
            }
        }
        if let Some(loss) = self.lost_in(served, |_| true)?.first() {
            bail!("the {} is missing", loss.what);
        }
        Ok(())
    }

    /// What was put in place in the namespace at `place` and is not there any more.
    pub(super) fn lost(&self, place: &Place) -> Result<Vec<Loss>> {
        match self.served.get(place) {
            Some(served) => self.lost_in(served, |_| true),
            None => Ok(Vec::new()),
        }
    }

    /// The namespaces in which something is lost of which the kernel does not tell.
    pub(super) fn silently_lost(&self) -> Vec<Place> {
        let has_lost = |served: &Served| {
            let lost = self.lost_in(served, Item::is_silent);
            lost.is_ok_and(|lost| !lost.is_empty())
        };
        let places = self.served.iter().filter(|(_, served)| has_lost(served));
        places.map(|(place, _)| place.clone()).collect()
    }

    /// What is lost of the programs in a namespace, and of its routing as far as `looks_at` says.
    fn lost_in(
        &self,
        served: &Served,
        looks_at: impl Fn(&Item) -> bool + Sync,
    ) -> Result<Vec<Loss>> {
        let netns = &served.netns;
        netns.run(|| {
            let programs = self
                .datapath
                .missing(netns, &served.pins, |name| served.index(name))?;
            let routes = served.routes.iter().filter(|item| looks_at(item));
            let routes = route::missing(netns, routes)?;
            let programs = programs.into_iter().map(Loss::from);
            Ok(programs.chain(routes.into_iter().map(Loss::from)).collect())
        })
    }

    /// Named namespaces that are no longer the ones that are served.
    pub(super) fn outdated(&self) -> Vec<Place> {
        let is_outdated = |path: &&Path| {
            let now = std::fs::metadata(path).ok().map(|m| m.ino());
            let served = self.served.get(&Some(path.to_path_buf()));
            now != served.map(|s| s.netns.inode())
        };
        let paths = self
            .wanted
            .places()
            .into_iter()
            .flatten()
            .filter(is_outdated);
        paths.map(|path| Some(path.to_owned())).collect()
    }

    /// From now on, new connections pass; those in progress are served.
    pub(super) fn drain(&mut self) -> Result<()> {
        for served in self.served.values_mut() {
            served.settings.draining = 1;
            self.datapath.steer(&served.netns, &served.settings)?;
        }
        Ok(())
    }

    /// Looks at a namespace, and finds the programs that are to be loaded and attached there. Changes nothing.
    pub(super) fn survey(
        &mut self,
        place: &Place,
        netns: Netns,
        rules: &Rules,
        kind: u8,
        missing: Missing,
    ) -> Result<Served> {
        let mut served = Served::survey(place, netns, rules, kind, missing, &self.changed)?;
        let before = self.served.get(place);
        if !before.is_some_and(|before| self.is_attached(&served, before)) {
            let (jobs, netns) = (served.jobs(), &served.netns);
            let packets = self.datapath.packets(netns, &jobs, served.steers);
            served.packets = Some(packets.with_context(|| format!("cannot serve {netns}"))?);
        }
        Ok(served)
    }

    /// Whether all that is to be attached is, and was so `before`.
    fn is_attached(&self, served: &Served, before: &Served) -> bool {
        let missing = || {
            let index = |name: &str| before.index(name);
            self.datapath.missing(&before.netns, &before.pins, index)
        };
        served.is_attached_in(before) && missing().is_ok_and(|missing| missing.is_empty())
    }

    /// Puts in place what a survey has found possible in a namespace. Returns what is there besides and is not wanted.
    ///
    /// # Errors
    ///
    /// When something cannot be installed; then what was in place before is.
    pub(super) fn install(&mut self, place: &Place, mut served: Served) -> Result<Former> {
        let before = match self.served.remove(place) {
            Some(before) if before.netns != served.netns => {
                self.withdraw(&before)?;
                None
            }
            before => before,
        };
        let mut former = before.as_ref().map(Former::of).unwrap_or_default();
        // Another agent may have left them.
        if let Some(settings) = self.datapath.steered(&served.netns)? {
            former.settings = settings;
        }
        served.pins.clone_from(&former.pins);
        let installed = self.put(&mut served);
        if installed.is_err() {
            let back = match before {
                Some(mut before) => {
                    let back = self.put(&mut before);
                    self.served.insert(place.clone(), before);
                    back.and_then(|()| self.give_up(place, &Former::of(&served)))
                }
                None => self.withdraw(&served),
            };
            back.unwrap_or_else(|error| warn!("cannot go back to what was before: {error:#}"));
            return installed.map(|()| former);
        }
        self.served.insert(place.clone(), served);
        self.name_addresses().map(|()| former)
    }

    /// Tells the data path which addresses are the node's own.
    pub(super) fn name_addresses(&self) -> Result<()> {
        let addresses = self.served.values().flat_map(|s| &s.addresses);
        self.datapath.node_addresses(addresses.copied())
    }

    fn put(&mut self, served: &mut Served) -> Result<()> {
        let netns = &served.netns;
        self.datapath.steer(netns, &served.settings)?;
        self.datapath
            .own(netns.cookie(), &served.own, &served.masters)?;
        for port in &served.proxies {
            self.datapath.adopt(netns, *port)?;
        }
        // Routes before packets: an assigned packet that is routed elsewhere would be lost.
        self.journal.apply(netns, &served.routes)?;
        self.datapath.unwrap(&Unwrapped::new(), &served.unwraps)?;
        self.datapath.carry_node(netns.cookie(), &served.nodes)?;
        let Some(packets) = served.packets.take() else {
            return Ok(());
        };
        served.pins = packets.pins();
        let attached = self.datapath.attach(packets);
        attached.with_context(|| format!("cannot attach to {netns}"))?;
        let jobs = served.jobs().into_iter();
        let mut targets: Vec<_> = jobs.map(|(name, job)| format!("{job} {name}")).collect();
        if served.steers {
            targets.push("sk_lookup".into());
        }
        if !targets.is_empty() {
            info!("attached in {netns}: {}", targets.join(", "));
        }
        Ok(())
    }

    /// Takes away what was in place in a namespace and is no longer wanted there.
    fn give_up(&self, place: &Place, former: &Former) -> Result<()> {
        let Some(served) = self.served.get(place) else {
            return Ok(());
        };
        let unwanted = former.pins.iter();
        let unwanted = unwanted.filter(|name| !served.pins.contains(name));
        // A port is given up before the program that translates its connections goes.
        let unwrapped = self.datapath.unwrap(&former.unwraps, &served.unwraps);
        let detached = self.datapath.detach(unwanted);
        self.end_steered(place, former);
        unwrapped.and(detached)
    }

    /// Resets what was steered in a namespace and is no longer.
    pub(super) fn end_steered(&self, place: &Place, former: &Former) {
        if let Some(served) = self.served.get(place) {
            end_steered(&served.netns, &former.settings, &served.settings);
        }
    }

    /// Takes away what is in place in a namespace.
    pub(super) fn release(&mut self, place: &Place) -> Result<()> {
        let Some(served) = self.served.remove(place) else {
            return Ok(());
        };
        let withdrawn = self.withdraw(&served).and(self.name_addresses());
        let netns = &served.netns;
        netns.run(|| self.journal.apply(netns, &[])).and(withdrawn)
    }

    /// Takes the data path away from a namespace. It goes on after a failure: what stays is not found again before the
    /// next reload.
    fn withdraw(&self, served: &Served) -> Result<()> {
        let unwrapped = self.datapath.unwrap(&served.unwraps, &Unwrapped::new());
        let detached = self.datapath.detach(&served.pins);
        let forgotten = self.datapath.forget(served.netns.cookie());
        end_steered(&served.netns, &served.settings, &Namespace::default());
        unwrapped.and(detached).and(forgotten)
    }
}

/// What is in place in a namespace beside what is wanted there.
#[derive(Default)]
pub(super) struct Former {
    pins: Vec<String>,
    unwraps: Unwrapped,
    settings: Namespace,
}

impl Former {
    fn of(served: &Served) -> Self {
        Self {
            pins: served.pins.clone(),
            unwraps: served.unwraps.clone(),
            settings: served.settings,
        }
    }
}
