//! Keeps host and configuration the same.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use agent_common::{
    ListenerKey, Namespace,
    unwrap::{UnwrapPort, Versions},
};
use anyhow::{Context as _, Result};
use tokio::{sync::Notify, task::JoinHandle};
use tracing::{info, warn};

use super::plan;
use crate::{
    config::{Config, Relay, Steer, Unwrap},
    datapath::{Datapath, Job},
    keys::KeyFile,
    netns::Netns,
    processes,
    route::{self, Journal},
    sockets::{self, ListenerInfo},
};

/// What is in place on this host.
pub(super) struct Supervisor {
    pub(super) datapath: Datapath,
    journal: Journal,
    config: Config,
    /// The keys of signed TOA.
    keys: Option<KeyFile>,
    served: Vec<Served>,
    /// Told when an interface of a served namespace changes.
    changed: Arc<Notify>,
}

/// A network namespace that has steers.
struct Served {
    path: Option<PathBuf>,
    netns: Netns,
    settings: Namespace,
    unwraps: Vec<(UnwrapPort, Versions)>,
    /// Name of each interface that is attached to, for what, and its index.
    interfaces: Vec<(String, Job, u32)>,
    /// Names of the pins of what is attached.
    pins: Vec<String>,
    watch: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Whether a namespace or an interface that is missing is an error, or comes later.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Fails,
    Waits,
}

impl Supervisor {
    /// Puts in place what is the same for every configuration. To be called within the async runtime.
    pub(super) fn new(config: &Config, journal: Journal, changed: Arc<Notify>) -> Result<Self> {
        let cgroup = processes::cgroup2_mount()?;
        let datapath = Datapath::load(&config.agent.bpffs, config.agent.origins, &cgroup)?;
        Ok(Self {
            datapath,
            journal,
            config: Config::default(),
            keys: None,
            served: Vec::new(),
            changed,
        })
    }

    /// Puts this configuration in place, instead of the one that was.
    ///
    /// # Errors
    ///
    /// When a namespace or an interface is missing, or something cannot be installed; what was in
    /// place is put back as far as it goes.
    pub(super) fn apply(&mut self, config: &Config) -> Result<()> {
        let keys = config.trust.keys.as_deref().map(KeyFile::open);
        let keys_before = std::mem::replace(&mut self.keys, keys.transpose()?);
        let before = std::mem::replace(&mut self.config, config.clone());
        let applied = self
            .instruct()
            .and_then(|()| self.reconcile(Missing::Fails));
        if applied.is_err() && before != Config::default() {
            (self.config, self.keys) = (before, keys_before);
            self.instruct()
                .and_then(|()| self.reconcile(Missing::Waits))
                .unwrap_or_else(|error| warn!("cannot go back to the former rules: {error:#}"));
        }
        applied
    }

    /// Tells the data path what holds for the whole host.
    fn instruct(&mut self) -> Result<()> {
        let Config {
            trust,
            reveal,
            carry_toa,
            policy,
            ..
        } = &self.config;
        self.datapath.sign(self.keys.as_ref().map(KeyFile::keys))?;
        self.datapath.guard(policy)?;
        self.datapath.trust(trust, reveal, !policy.is_empty())?;
        self.datapath.carry(carry_toa)?;
        if trust.reads_toa() {
            for netns in Netns::all()? {
                self.adopt(&netns, 0)?;
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

    /// Follows the host: interfaces and named namespaces that vanished or came back.
    pub(super) fn follow(&mut self) -> Result<()> {
        self.reconcile(Missing::Waits)
    }

    /// Whether a named namespace is no longer the one that is served.
    pub(super) fn is_outdated(&self) -> bool {
        self.namespaces().into_iter().flatten().any(|path| {
            use std::os::unix::fs::MetadataExt as _;
            let now = std::fs::metadata(path).ok().map(|m| m.ino());
            let served = self.served.iter().find(|s| s.path.as_deref() == Some(path));
            now != served.map(|s| s.netns.inode())
        })
    }

    /// The paths of the namespaces in which something is to be done, each once.
    fn namespaces(&self) -> Vec<Option<&Path>> {
        let steers = self.config.steer.iter().map(|s| s.netns.as_deref());
        let unwraps = self.config.unwrap.iter().map(|u| u.netns.as_deref());
        let relays = self.config.relay.iter().filter(|r| r.route().is_some());
        let relays = relays.map(|r| r.netns.as_deref());
        let mut paths: Vec<_> = steers.chain(unwraps).chain(relays).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// The steers of the configuration, and what the relays need of one.
    fn steers(&self) -> Vec<Steer> {
        let relays = self.config.relay.iter().filter_map(Relay::route);
        self.config.steer.iter().cloned().chain(relays).collect()
    }

    /// From now on, new connections pass; those in progress are served.
    pub(super) fn drain(&mut self) -> Result<()> {
        for served in &mut self.served {
            served.settings.draining = 1;
            self.datapath.configure(&served.netns, &served.settings)?;
        }
        Ok(())
    }

    fn reconcile(&mut self, missing: Missing) -> Result<()> {
        let paths: Vec<_> = self
            .namespaces()
            .into_iter()
            .map(|p| p.map(Path::to_owned))
            .collect();
        let mut served = Vec::new();
        for path in paths {
            match self.settle(path.as_deref(), missing) {
                Ok(one) => served.push(one),
                Err(error) if missing == Missing::Fails => return Err(error),
                Err(error) => warn!("{error:#}; waiting for it"),
            }
        }
        // Routes before packets: an assigned packet that is routed elsewhere would be lost.
        let present: HashSet<_> = served.iter().map(|s| s.path.clone()).collect();
        let mut steers = self.steers();
        steers.retain(|s| present.contains(&s.netns));
        self.journal.apply(&route::items(&steers))?;
        let ports: Vec<_> = served.iter().flat_map(|s| s.unwraps.clone()).collect();
        self.datapath.unwrap(&ports)?;
        for one in &mut served {
            self.attach(one)?;
        }
        let pins: Vec<String> = served.iter().flat_map(|s| s.pins.clone()).collect();
        let cookies: Vec<u64> = served.iter().map(|s| s.netns.cookie()).collect();
        self.datapath.retain(&pins, &cookies)?;
        self.served = served;
        Ok(())
    }

    /// Tells the data path about the namespace at `path`; all but what is attached.
    fn settle(&mut self, path: Option<&Path>, missing: Missing) -> Result<Served> {
        let mut steers = self.steers();
        steers.retain(|s| s.netns.as_deref() == path);
        let unwraps: Vec<Unwrap> = self
            .config
            .unwrap
            .iter()
            .filter(|u| u.netns.as_deref() == path)
            .cloned()
            .collect();
        let netns = Netns::open_or_current(path)?;
        // Before looking, so that no change goes by unseen.
        let changed = self.changed.clone();
        let mut links = netns.watch_links()?;
        let watch = tokio::spawn(async move {
            while links.recv().await.is_some() {
                changed.notify_one();
            }
        });
        let here = netns.interfaces()?;
        let index = |name: &str| here.iter().find(|i| i.name == name).map(|i| i.index);
        let mut interfaces = Vec::new();
        for (name, job) in plan::jobs(&steers, &unwraps) {
            match index(name) {
                Some(index) => interfaces.push((name.to_owned(), job, index)),
                None if missing == Missing::Fails => drop(netns.interface_index(name)?),
                None => warn!("interface {name} of {netns} is missing; waiting for it"),
            }
        }
        let settings = plan::settings(&steers, index)?;
        self.datapath.configure(&netns, &settings)?;
        let unwraps = plan::unwraps(&unwraps, netns.cookie(), index);
        for port in steers.iter().map(|s| s.to).collect::<HashSet<_>>() {
            self.adopt(&netns, port)?;
        }

        let before = self
            .served
            .iter()
            .find(|s| s.netns.cookie() == netns.cookie());
        let pins = before.map_or_else(Vec::new, |s| s.pins.clone());
        let is_attached = before.is_some_and(|s| s.interfaces == interfaces);
        Ok(Served {
            path: path.map(Path::to_owned),
            netns,
            settings,
            unwraps,
            pins: if is_attached { pins } else { Vec::new() },
            interfaces,
            watch,
        })
    }

    /// Makes known the listeners on `port` that were there before this agent: a proxy's, or with 0 all.
    fn adopt(&mut self, netns: &Netns, port: u16) -> Result<()> {
        let key = |listener: &ListenerInfo| ListenerKey {
            netns: netns.cookie(),
            port: port.into(),
            family: listener.family.into(),
        };
        let listeners = sockets::listeners(netns, port)?;
        let known: Vec<_> = listeners.iter().map(|l| (l.cookie, key(l))).collect();
        self.datapath.adopt(netns, &known)
    }

    /// Attaches the packet programs, unless they are.
    fn attach(&mut self, served: &mut Served) -> Result<()> {
        if !served.pins.is_empty() {
            return Ok(());
        }
        let jobs: Vec<_> = served
            .interfaces
            .iter()
            .map(|(name, job, _)| (name.as_str(), *job))
            .collect();
        served.pins = self
            .datapath
            .attach(&served.netns, &jobs)
            .with_context(|| format!("cannot attach to {}", served.netns))?;
        let mut targets: Vec<_> = jobs
            .iter()
            .map(|(name, job)| format!("{job} {name}"))
            .collect();
        targets.push("sk_lookup".into());
        info!("attached in {}: {}", served.netns, targets.join(", "));
        Ok(())
    }
}
