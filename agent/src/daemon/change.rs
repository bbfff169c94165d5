//! A change of the configuration: looked at whole, then put in place. One that fails leaves things as they were.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use anyhow::Result;
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::{
    plan::Place,
    served::{Missing, Served},
    supervisor::Supervisor,
};
use crate::{
    config::{Config, Relay, keys::KeyFile},
    datapath::HostRules,
    doctor,
    host::netns::Netns,
};

/// A configuration that this host can have: what it names of the host fits, and the kernel has taken the programs.
pub(super) struct Change {
    config: Config,
    keys: Option<KeyFile>,
    /// The namespaces that it names and that are there.
    places: Vec<(Place, Served)>,
}

impl Supervisor {
    /// Looks whether the host can have this configuration. Changes nothing. Namespaces, interfaces, cgroups and files that are
    /// missing may come later.
    ///
    /// # Errors
    ///
    /// When an interface does not fit, a file holds no keys, or the kernel refuses a program.
    pub(super) fn prepare(&mut self, config: &Config) -> Result<Change> {
        let keys = config.toa.keys.as_deref().map(KeyFile::open).transpose()?;
        let host = rules(config, keys.as_ref());
        let wanted = self.wanted.with(config);
        let configured = wanted.configured().into_iter();
        let is_there = |path: &Option<&Path>| path.is_none_or(|path| Netns::open(path).is_ok());
        let mut places = Vec::new();
        for path in configured.filter(is_there) {
            let place = path.map(Path::to_owned);
            let rules = wanted.of(&place);
            let netns = Netns::open_or_current(path)?;
            let runtime = Handle::current();
            let served = netns.clone().run(|| {
                let _guard = runtime.enter();
                self.survey(&place, netns, &rules, config.carry_toa.kind, Missing::Waits)
            })?;
            places.push((place, served));
        }
        let packets = places
            .iter_mut()
            .filter_map(|(_, served)| served.packets.as_mut());
        self.datapath.prepare(&host, packets)?;
        Ok(Change {
            places,
            config: config.clone(),
            keys,
        })
    }

    /// Puts a configuration in place, instead of the one that was, and what the pods ask for.
    ///
    /// # Errors
    ///
    /// When something cannot be installed after all; then what was in place is put back as far as it goes.
    pub(super) fn commit(&mut self, change: Change) -> Result<()> {
        let _full = self.datapath.end_former_streams()?;
        let keys_before = std::mem::replace(&mut self.keys, change.keys);
        let before = std::mem::replace(&mut self.wanted.config, change.config);
        let committed = self.replace(change.places);
        if committed.is_err() && before != Config::default() {
            (self.wanted.config, self.keys) = (before, keys_before);
            self.replace(Vec::new())
                .unwrap_or_else(|error| warn!("cannot go back to the former rules: {error:#}"));
        }
        committed
    }

    /// Makes what is wanted all that is in place. Of the namespaces that are not among `surveyed`, what is missing is waited
    /// for.
    fn replace(&mut self, surveyed: Vec<(Place, Served)>) -> Result<()> {
        self.instruct()?;
        let wanted = self.wanted.places().into_iter();
        let mut wanted: BTreeSet<Place> = wanted.map(|p| p.map(Path::to_owned)).collect();
        let former = self.served.iter();
        let former = former.filter(|(place, _)| !wanted.contains(*place));
        // What goes comes last, unless another path to the same namespace takes its place.
        let (renamed, gone): (Vec<_>, Vec<_>) = former
            .map(|(place, served)| (place.clone(), served.netns.inode()))
            .partition(|(_, inode)| surveyed.iter().any(|(_, s)| s.netns.inode() == *inode));
        for (place, _) in renamed {
            self.release(&place)?;
        }
        let mut former = Vec::new();
        for (place, served) in surveyed {
            let netns = served.netns.clone();
            let before = netns.run(|| self.install(&place, served))?;
            wanted.remove(&place);
            former.push((place, before));
        }
        // A namespace that is missing is told as such, and a pod that has gone is no fault of the configuration.
        for place in &wanted {
            if let Err(error) = self.follow(place, Missing::Waits) {
                debug!("{error:#}");
            }
        }
        for (place, _) in gone {
            self.release(&place)?;
        }
        self.retain()?;
        for (place, former) in former {
            self.end_steered(&place, &former);
        }
        Ok(())
    }

    /// Takes away what nobody wants: what this agent has put in place before, and what another has left.
    fn retain(&mut self) -> Result<()> {
        let places: Vec<_> = self.served.keys().map(Option::as_deref).collect();
        self.journal.retain(&places)?;
        let served = || self.served.values();
        let pins: Vec<_> = served().flat_map(|s| &s.pins).map(String::as_str).collect();
        let cookies: Vec<_> = served().map(|s| s.netns.cookie()).collect();
        let ports = served().flat_map(|s| s.unwraps.clone()).collect();
        self.datapath.retain(&pins, &cookies, &ports)?;
        self.name_addresses()
    }

    /// Follows the cgroups that the configuration names. The kernel knows them by numbers that are never used again.
    pub(super) fn follow_cgroups(&mut self) -> Result<()> {
        let now = self.find_cgroups();
        if now != self.cgroups {
            let rules = rules(&self.wanted.config, self.keys.as_ref());
            self.datapath.follow_cgroups(&rules)?;
            self.cgroups = now;
        }
        Ok(())
    }

    /// The cgroups that the configuration names, and the number of each that is there.
    fn find_cgroups(&self) -> BTreeMap<String, Option<u64>> {
        let number = |path: &str| {
            let path = self.datapath.cgroup_at(path);
            std::fs::metadata(path).ok().map(|found| found.ino())
        };
        let cgroups = doctor::cgroups(&self.wanted.config);
        cgroups
            .map(|path| (path.to_owned(), number(path)))
            .collect()
    }

    /// Tells the data path what holds for the whole host.
    fn instruct(&mut self) -> Result<()> {
        self.cgroups = self.find_cgroups();
        let config = &self.wanted.config;
        let rules = rules(config, self.keys.as_ref());
        self.datapath.govern(&rules)?;
        if !rules.toa.is_empty() {
            self.containers.refresh();
            for netns in self.containers.namespaces()? {
                self.datapath.adopt(&netns, 0)?;
            }
        }
        Ok(())
    }
}

/// What a configuration says for the whole host.
fn rules<'a>(config: &'a Config, keys: Option<&'a KeyFile>) -> HostRules<'a> {
    HostRules {
        trust: &config.trust,
        toa: config.kinds(),
        keys: keys.and_then(KeyFile::keys),
        reveal: &config.reveal,
        carry: &config.carry_toa,
        relays: config.relay.iter().any(Relay::speaks),
        policies: &config.policy,
    }
}
