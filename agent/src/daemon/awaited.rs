//! What the configuration names and the host does not have yet: it is told once, and waited for.

use std::collections::BTreeSet;

use tracing::{info, warn};

use crate::{
    config::Config,
    doctor::{self, Named},
    observe::upkeep::Upkeep,
};

/// What is waited for.
pub(super) struct Awaited {
    upkeep: Upkeep,
    missing: BTreeSet<Named>,
}

impl Awaited {
    pub(super) fn new(upkeep: Upkeep) -> Self {
        let missing = BTreeSet::new();
        Self { upkeep, missing }
    }

    /// Looks what is missing now, and tells what has changed.
    pub(super) fn look(&mut self, config: &Config) {
        let missing = doctor::missing(config);
        for (named, error) in &missing {
            if !self.missing.contains(named) {
                warn!("{error:#}; waiting for it");
            }
        }
        for named in &self.missing {
            if !missing.contains_key(named) {
                info!("no longer waiting for {named}");
            }
        }
        self.missing = missing.into_keys().collect();
        let things = self.missing.iter().map(ToString::to_string);
        self.upkeep.wait_for(things.collect());
    }
}
