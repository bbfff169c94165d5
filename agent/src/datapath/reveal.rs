//! reveal: whose `accept()` and `getpeername()` return the client.

use std::path::PathBuf;

use agent_common::names::program;
use anyhow::Result;

use super::{cgroups, object::Datapath};
use crate::config::Reveal;

/// What tells clients to a cgroup's processes.
pub(super) const PROGRAMS: [&str; 3] = [program::PEER4, program::PEER6, program::ORIGINAL_DST];

impl Datapath {
    /// The cgroups whose processes are told.
    pub(super) fn told(&self, reveal: &Reveal) -> Vec<PathBuf> {
        match &reveal.cgroups[..] {
            _ if !reveal.enabled => Vec::new(),
            [] => vec![self.cgroup.clone()],
            cgroups => cgroups.iter().map(|path| self.cgroup_at(path)).collect(),
        }
    }

    /// Attaches what tells clients to the processes of `reveal`, unless its pins are `known`. Returns the names of the pins.
    pub(super) fn attach_reveal(
        &mut self,
        reveal: &Reveal,
        known: &[String],
    ) -> Result<Vec<String>> {
        let mut pins = Vec::new();
        for cgroup in self.told(reveal) {
            pins.extend(cgroups::attach_below(
                &mut self.object,
                &self.pins,
                &cgroup,
                &PROGRAMS,
                known,
            )?);
        }
        Ok(pins)
    }
}
