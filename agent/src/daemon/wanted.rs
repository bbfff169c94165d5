//! What is to be done in which network namespace, by the configuration and by pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::plan::{Place, Rules};
use crate::config::{Config, Relay};

/// What the supervisor is to put in place.
#[derive(Default)]
pub(super) struct Wanted {
    /// The agent's configuration.
    pub(super) config: Config,
    /// What pods ask for, by their network namespaces.
    pods: BTreeMap<PathBuf, Config>,
}

impl Wanted {
    /// What would be wanted with this configuration instead.
    pub(super) fn with(&self, config: &Config) -> Self {
        Self {
            config: config.clone(),
            pods: self.pods.clone(),
        }
    }

    /// Pods ask for these rules in the namespace at `path`.
    pub(super) fn set_pod(&mut self, path: &Path, rules: Config) {
        if rules == Config::default() {
            self.pods.remove(path);
        } else {
            self.pods.insert(path.to_owned(), rules);
        }
    }

    /// Whether the configuration itself names the namespace at `path`.
    pub(super) fn is_configured(&self, path: &Path) -> bool {
        self.configured().contains(&Some(path))
    }

    /// The namespaces in which something is to be done.
    pub(super) fn places(&self) -> BTreeSet<Option<&Path>> {
        let pods = self.pods.keys().map(|path| Some(path.as_path()));
        self.configured().into_iter().chain(pods).collect()
    }

    /// The namespaces that the configuration itself names.
    pub(super) fn configured(&self) -> BTreeSet<Option<&Path>> {
        let steers = self.config.steer.iter().map(|s| s.netns.as_deref());
        let unwraps = self.config.unwrap.iter().map(|u| u.netns.as_deref());
        let nodes = self.config.carry_node.iter().map(|n| n.netns.as_deref());
        let relays = self.config.relay.iter().filter(|r| r.route().is_some());
        let relays = relays.map(|r| r.netns.as_deref());
        steers.chain(unwraps).chain(nodes).chain(relays).collect()
    }

    /// What is to be done in a namespace: by configuration and pods, and for relays, which need a steer.
    pub(super) fn of(&self, place: &Place) -> Rules {
        let pod = place.as_ref().and_then(|path| self.pods.get(path));
        let relays = self.config.relay.iter().filter_map(Relay::route);
        let steers = self.config.steer.iter().cloned().chain(relays);
        let steers = steers.filter(|s| s.netns == *place);
        let unwraps = self.config.unwrap.iter().filter(|u| u.netns == *place);
        let nodes = self.config.carry_node.iter().filter(|n| n.netns == *place);
        Rules {
            steers: steers
                .chain(pod.iter().flat_map(|pod| pod.steer.clone()))
                .collect(),
            unwraps: unwraps
                .cloned()
                .chain(pod.iter().flat_map(|pod| pod.unwrap.clone()))
                .collect(),
            nodes: nodes.cloned().collect(),
            refuses: self.config.reveal.refuses(),
        }
    }
}
