//! reveal: whose `accept()` and `getpeername()` return the client.

use std::path::PathBuf;

use agent_common::names::program;
use anyhow::Result;

use super::{cgroups, object::Datapath};
use crate::config::Reveal;

impl Datapath {
    /// Attaches what tells clients to the processes of `reveal`. Returns the names of the pins.
    ///
    /// # Errors
    ///
    /// When a cgroup is missing.
    pub(super) fn attach_reveal(&mut self, reveal: &Reveal) -> Result<Vec<String>> {
        let told: Vec<PathBuf> = match &reveal.cgroups[..] {
            _ if !reveal.enabled => Vec::new(),
            [] => vec![self.cgroup.clone()],
            cgroups => cgroups
                .iter()
                .map(|cgroup| self.cgroup_at(cgroup))
                .collect(),
        };
        let programs = [program::PEER4, program::PEER6, program::ORIGINAL_DST];
        let mut pins = Vec::new();
        for cgroup in told {
            pins.extend(cgroups::attach_below(
                &mut self.object,
                &self.pins,
                &cgroup,
                &programs,
            )?);
        }
        Ok(pins)
    }
}
