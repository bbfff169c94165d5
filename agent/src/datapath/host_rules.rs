//! What holds for the whole host, whatever is done in its network namespaces.

use std::path::PathBuf;

use agent_common::{kernel::Version, names::program, toa::Kinds};
use anyhow::Result;

use super::{cgroups, object::Datapath, programs, reveal};
use crate::{
    config::{CarryToa, Policy, Reveal, Trust, keys::Keys},
    host::kernel,
};

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
    /// Whether a relay speaks for clients.
    pub relays: bool,
    /// Who may connect.
    pub policies: &'a [Policy],
}

impl Datapath {
    /// Makes sure that these rules can hold, and changes nothing.
    ///
    /// # Errors
    ///
    /// When a cgroup is missing, or the kernel refuses a program.
    pub fn prepare(&mut self, rules: &HostRules<'_>) -> Result<()> {
        self.proxies(rules.trust, rules.reveal.refuses())?;
        for cgroup in self.told(rules.reveal) {
            cgroups::id(&cgroup)?;
        }
        let reveal: &[&str] = match rules.reveal.enabled {
            true => &reveal::PROGRAMS,
            false => &[],
        };
        for name in needed(rules)?.iter().chain(reveal) {
            programs::load(&mut self.object, name)?;
        }
        Ok(())
    }

    /// Makes these rules hold instead of those before, and attaches the programs that they need. What no rule
    /// needs any more stays until [`Datapath::retain`].
    ///
    /// # Errors
    ///
    /// When a cgroup is missing, or a program cannot be attached.
    pub fn govern(&mut self, rules: &HostRules<'_>) -> Result<()> {
        self.sign(rules.keys)?;
        self.guard(rules.policies)?;
        self.trust(rules.trust, rules.reveal.refuses())?;
        let needed = needed(rules)?;
        let mut names =
            cgroups::attach_to_root(&mut self.object, &self.pins, &self.cgroup, &needed)?;
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

/// The programs that rules need for every process of the host.
fn needed(rules: &HostRules<'_>) -> Result<Vec<&'static str>> {
    let HostRules { trust, .. } = *rules;
    let judges = !rules.policies.is_empty();
    let refuses = judges || rules.reveal.refuses();
    let mut needed = Vec::new();
    if trust.iter().any(Trust::believes_proxies) {
        // They take the binds of trusted proxies as evidence.
        needed.extend([program::ASK, program::BIND4, program::BIND6]);
    }
    let speaks = rules.relays || trust.iter().any(Trust::believes_proxies);
    if refuses && speaks || trust.iter().any(Trust::has_local_source) {
        // They choose the source of the proxies' connections, and refuse those whose client a policy denies or the
        // application cannot express.
        needed.extend([program::SOURCE4, program::SOURCE6]);
    }
    if judges {
        needed.push(program::GUARD);
    }
    // Before Linux 6.12, the kernel cannot show the SYNs that a listener answers which is older than the agent: this
    // reads TOA on its way there.
    if !rules.toa.is_empty() && !kernel::running()?.has(Version::ITERATOR_ASKS_FOR_SYNS) {
        needed.push(program::HEAR);
    }
    Ok(needed)
}
