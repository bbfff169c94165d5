//! What holds for the whole host, whatever is done in its network namespaces.

use std::path::PathBuf;

use agent_common::toa::Kinds;
use anyhow::Result;

use super::object::Datapath;
use crate::config::{CarryToa, Policy, Reveal, Trust, keys::Keys};

/// The sections of the configuration that hold for the whole host.
pub struct HostRules<'a> {
    /// Who may speak for a client.
    pub trust: &'a [Trust],
    /// What is taken for TOA.
    pub toa: Kinds,
    /// What signs TOA and verifies it.
    pub keys: Option<&'a Keys>,
    /// Who is told the client.
    pub reveal: &'a Reveal,
    /// Which destinations are sent TOA.
    pub carry: &'a CarryToa,
    /// Who may connect.
    pub policies: &'a [Policy],
}

impl Datapath {
    /// Makes these rules hold instead of those before, and attaches the programs that they need. What no rule
    /// needs any more stays until [`Datapath::retain`].
    ///
    /// # Errors
    ///
    /// When a cgroup is missing, or a program cannot be attached.
    pub fn govern(&mut self, rules: &HostRules<'_>) -> Result<()> {
        let HostRules { trust, .. } = *rules;
        self.sign(rules.keys)?;
        self.guard(rules.policies)?;
        self.trust(trust)?;
        let judges = !rules.policies.is_empty();
        let mut names = Vec::new();
        if trust.iter().any(Trust::believes_proxies) {
            names.extend(self.attach_bind()?);
            if judges || trust.iter().any(Trust::has_local_source) {
                names.extend(self.attach_source()?);
            }
        }
        if judges {
            names.extend(self.attach_guard()?);
        }
        if !rules.toa.is_empty() {
            names.extend(self.attach_hear()?);
        }
        names.extend(self.attach_reveal(rules.reveal)?);
        self.by_need = names;
        self.carry(rules.carry)?;
        self.read_toa(rules.toa)
    }

    /// The directory of a cgroup that the configuration names.
    pub(super) fn cgroup_at(&self, path: &str) -> PathBuf {
        self.cgroup.join(path.trim_start_matches('/'))
    }
}
