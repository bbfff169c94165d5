//! What holds for the whole host, whatever is done in its network namespaces.

use std::path::PathBuf;

use agent_common::{kernel::Version, names::program, toa::Kinds};
use anyhow::Result;

use super::{
    cgroups,
    interfaces::{self, Missing, Packets},
    links,
    object::Datapath,
    programs, reveal,
};
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
    /// Makes sure that these rules can hold, and that these packet programs can be attached. Changes nothing.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a program.
    pub fn prepare<'a>(
        &mut self,
        rules: &HostRules<'_>,
        packets: impl IntoIterator<Item = &'a mut Packets>,
    ) -> Result<()> {
        let mut names = needed(rules)?;
        names.extend(&self.needed);
        if rules.reveal.enabled {
            names.extend(reveal::PROGRAMS);
        }
        let mut packets: Vec<_> = packets.into_iter().collect();
        let on_interfaces = packets.iter_mut().flat_map(|packets| packets.programs());
        programs::load_all(on_interfaces.chain(programs::these(&mut self.object, &names)))?;
        packets.into_iter().for_each(Packets::close);
        Ok(())
    }

    /// Makes these rules hold instead of those before, and attaches the programs that they need. What no rule
    /// needs any more stays until [`Datapath::retain`]. Cgroups that are not there are left out, see
    /// [`Datapath::follow_cgroups`].
    ///
    /// # Errors
    ///
    /// When a program cannot be attached.
    pub fn govern(&mut self, rules: &HostRules<'_>) -> Result<()> {
        self.begin()?;
        self.sign(rules.keys)?;
        self.guard(rules.policies)?;
        self.trust(rules.trust, rules.reveal.refuses())?;
        let needed = needed(rules)?;
        let mut names =
            cgroups::attach_to_root(&mut self.object, &self.pins, &self.cgroup, &needed)?;
        names.extend(self.attach_reveal(rules.reveal, &[])?);
        self.by_need = names;
        self.carry(rules.carry)?;
        self.read_toa(rules.toa)
    }

    /// Makes these rules, which hold already, hold for the cgroups that are there now: a service that restarts gets a new one at
    /// the same path.
    pub fn follow_cgroups(&mut self, rules: &HostRules<'_>) -> Result<()> {
        self.trust(rules.trust, rules.reveal.refuses())?;
        let mut names = self.by_need.clone();
        let attached = self.attach_reveal(rules.reveal, &names)?;
        names.retain(|pin| links::cgroup(pin).1.is_none());
        names.extend(attached);
        let before = std::mem::replace(&mut self.by_need, names);
        for gone in before.iter().filter(|pin| !self.by_need.contains(pin)) {
            self.pins.unpin_link(gone)?;
        }
        Ok(())
    }

    /// Of the programs for the whole host, those that are not attached.
    pub fn missing_on_host(&self) -> Result<Vec<Missing>> {
        let missing = self
            .names()
            .map(|name| interfaces::missing(&self.pins, name));
        missing.filter_map(Result::transpose).collect()
    }

    /// Attaches those again.
    pub fn attach_missing(&mut self) -> Result<()> {
        let names: Vec<_> = self.names().cloned().collect();
        for name in names {
            if interfaces::missing(&self.pins, &name)?.is_some() {
                cgroups::attach_again(&mut self.object, &self.pins, &self.cgroup, name)?;
            }
        }
        Ok(())
    }

    /// The names of the pins of all programs for the whole host.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.always.iter().chain(&self.by_need)
    }

    /// The directory of a cgroup that the configuration names.
    pub fn cgroup_at(&self, path: &str) -> PathBuf {
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
