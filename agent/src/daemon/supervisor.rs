//! Keeps host, configuration and pods the same, one network namespace after the other.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use tokio::{runtime::Handle, sync::mpsc::Sender};
use tracing::{info, warn};

use super::{
    plan::Place,
    served::{Missing, Served},
    wanted::Wanted,
};
use crate::{
    config::{AccessLogTarget, Config, Steer, keys::KeyFile},
    datapath::{Datapath, HostRules},
    host::{cgroups::cgroup2_mount, netns::Netns},
    route::{self, Journal},
    workloads::containers::Containers,
};

/// What is in place on this host.
pub(super) struct Supervisor {
    pub(super) datapath: Datapath,
    journal: Journal,
    /// What is to be done.
    pub(super) wanted: Wanted,
    /// The keys of signed TOA.
    keys: Option<KeyFile>,
    /// For the network namespaces of pods in which nothing is to be done.
    containers: Containers,
    served: BTreeMap<Place, Served>,
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
        let datapath = Datapath::load(&agent.bpffs, agent.origins, logs, &cgroup)?;
        Ok(Self {
            datapath,
            journal,
            wanted: Wanted::default(),
            keys: None,
            containers,
            served: BTreeMap::new(),
            changed,
        })
    }

    /// Puts this configuration in place, instead of the one that was, and what the pods ask for.
    ///
    /// # Errors
    ///
    /// When a namespace or an interface is missing, or something cannot be installed; what was in
    /// place is put back as far as it goes.
    pub(super) fn apply(&mut self, config: &Config) -> Result<()> {
        let keys = config.toa.keys.as_deref().map(KeyFile::open);
        let keys_before = std::mem::replace(&mut self.keys, keys.transpose()?);
        let before = std::mem::replace(&mut self.wanted.config, config.clone());
        let applied = self
            .instruct()
            .and_then(|()| self.reconcile(Missing::Fails));
        if applied.is_err() && before != Config::default() {
            (self.wanted.config, self.keys) = (before, keys_before);
            self.instruct()
                .and_then(|()| self.reconcile(Missing::Waits))
                .unwrap_or_else(|error| warn!("cannot go back to the former rules: {error:#}"));
        }
        applied
    }

    /// Tells the data path what holds for the whole host.
    fn instruct(&mut self) -> Result<()> {
        let config = &self.wanted.config;
        let toa = config.kinds();
        self.datapath.govern(&HostRules {
            trust: &config.trust,
            toa,
            keys: self.keys.as_ref().map(KeyFile::keys),
            reveal: &config.reveal,
            carry: &config.carry_toa,
            policies: &config.policy,
        })?;
        if !toa.is_empty() {
            self.containers.refresh();
            for netns in self.containers.namespaces()? {
                self.datapath.adopt(&netns, 0)?;
            }
        }
        Ok(())
    }

    /// Follows the file with the keys, and the clock by which tags are made.
    pub(super) fn follow_keys(&mut self) -> Result<()> {
        let Some(keys) = &mut self.keys else {
            return Ok(());
        };
        keys.follow();
        self.datapath.sign(Some(keys.keys()))
    }

    /// Does what is to be done in the namespace at `place`, as the host is now.
    ///
    /// # Errors
    ///
    /// When something cannot be installed, or `missing` says so; then nothing is left in place there.
    pub(super) fn follow(&mut self, place: &Place, missing: Missing) -> Result<()> {
        let is_wanted = self.wanted.places().contains(&place.as_deref());
        let served = if is_wanted {
            // One thread for all that is done inside.
            let runtime = Handle::current();
            Netns::open_or_current(place.as_deref()).and_then(|netns| {
                netns.clone().run(|| {
                    let _guard = runtime.enter();
                    self.serve(place, netns, missing)
                })
            })
        } else {
            Ok(())
        };
        if !is_wanted || served.is_err() {
            return served.and(self.release(place));
        }
        served
    }

    /// Fails with what is missing in the namespace at `place`.
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        if !self.wanted.places().contains(&place.as_deref()) {
            return Ok(());
        }
        let served = self.served.get(place).context("nothing is in place")?;
        let rules = self.wanted.of(place);
        for (name, job) in rules.jobs() {
            if !served
                .interfaces
                .iter()
                .any(|(n, j, _)| (n.as_str(), *j) == (name, job))
            {
                bail!("interface {name} of {} is missing", served.netns);
            }
        }
        let netns = &served.netns;
        self.datapath.check(netns, &served.pins)?;
        netns.run(|| route::check(netns, &route::items(&rules.steers)))
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

    fn reconcile(&mut self, missing: Missing) -> Result<()> {
        let wanted = self.wanted.places().into_iter();
        let wanted: BTreeSet<Place> = wanted.map(|p| p.map(Path::to_owned)).collect();
        let former = self.served.keys().filter(|place| !wanted.contains(place));
        for place in former.cloned().collect::<Vec<_>>() {
            self.release(&place)?;
        }
        for place in &wanted {
            // A pod that has gone is no fault of the configuration.
            let is_pods = place
                .as_ref()
                .is_some_and(|path| !self.wanted.is_configured(path));
            match self.follow(place, if is_pods { Missing::Waits } else { missing }) {
                Err(error) if missing == Missing::Fails && !is_pods => return Err(error),
                Err(error) => warn!("{error:#}; waiting for it"),
                Ok(()) => {}
            }
        }
        // What another agent has left.
        let places: Vec<_> = self.served.keys().map(Option::as_deref).collect();
        self.journal.retain(&places)?;
        let served = || self.served.values();
        let pins: Vec<_> = served().flat_map(|s| &s.pins).map(String::as_str).collect();
        let cookies: Vec<_> = served().map(|s| s.netns.cookie()).collect();
        let ports: Vec<_> = served().flat_map(|s| s.unwraps.clone()).collect();
        self.datapath.retain(&pins, &cookies, &ports)
    }

    /// Puts in place what is wanted in a namespace.
    fn serve(&mut self, place: &Place, netns: Netns, missing: Missing) -> Result<()> {
        let rules = self.wanted.of(place);
        let kind = self.wanted.config.carry_toa.kind;
        let mut served = Served::survey(place, netns, &rules, kind, missing, &self.changed)?;
        let before = self.served.remove(place);
        let installed = self.install(&mut served, before, &rules.steers);
        // Whether or not all of it is there: what is can be taken away.
        self.served.insert(place.clone(), served);
        installed
    }

    fn install(
        &mut self,
        served: &mut Served,
        before: Option<Served>,
        steers: &[Steer],
    ) -> Result<()> {
        let before = match before {
            Some(before) if before.netns != served.netns => {
                self.withdraw(&before)?;
                None
            }
            before => before,
        };
        let mut is_attached = false;
        let mut former = Vec::new();
        if let Some(before) = before {
            is_attached =
                (&before.interfaces, before.steers) == (&served.interfaces, served.steers);
            served.pins.clone_from(&before.pins);
            former.clone_from(&before.unwraps);
        }
        self.datapath.steer(&served.netns, &served.settings)?;
        let ports: HashSet<u16> = steers.iter().flat_map(|s| s.to.clone()).collect();
        for port in ports {
            self.datapath.adopt(&served.netns, port)?;
        }
        // Routes before packets: an assigned packet that is routed elsewhere would be lost.
        self.journal.apply(&served.netns, &route::items(steers))?;
        self.datapath.unwrap(&former, &served.unwraps)?;
        let netns = served.netns.cookie();
        self.datapath.carry_node(netns, &served.nodes)?;
        if !is_attached {
            let former = served.pins.clone();
            self.attach(served)?;
            let unwanted = former.iter().filter(|name| !served.pins.contains(name));
            self.datapath.detach(unwanted)?;
        }
        Ok(())
    }

    /// Takes away what is in place in a namespace.
    fn release(&mut self, place: &Place) -> Result<()> {
        let Some(served) = self.served.remove(place) else {
            return Ok(());
        };
        let withdrawn = self.withdraw(&served);
        let netns = &served.netns;
        netns.run(|| self.journal.apply(netns, &[])).and(withdrawn)
    }

    /// Takes the data path away from a namespace. It goes on after a failure: what stays is not found again before the
    /// next reload.
    fn withdraw(&self, served: &Served) -> Result<()> {
        let detached = self.datapath.detach(&served.pins);
        let unwrapped = self.datapath.unwrap(&served.unwraps, &[]);
        let forgotten = self.datapath.forget(served.netns.cookie());
        detached.and(unwrapped).and(forgotten)
    }

    /// Attaches the packet programs.
    fn attach(&mut self, served: &mut Served) -> Result<()> {
        if served.interfaces.is_empty() && !served.steers {
            return Ok(());
        }
        let jobs: Vec<_> = served
            .interfaces
            .iter()
            .map(|(name, job, _)| (name.as_str(), *job))
            .collect();
        served.pins = self
            .datapath
            .attach(&served.netns, &jobs, served.steers)
            .with_context(|| format!("cannot attach to {}", served.netns))?;
        let mut targets: Vec<_> = jobs
            .iter()
            .map(|(name, job)| format!("{job} {name}"))
            .collect();
        if served.steers {
            targets.push("sk_lookup".into());
        }
        info!("attached in {}: {}", served.netns, targets.join(", "));
        Ok(())
    }
}
