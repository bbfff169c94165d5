//! learn: who is believed, and by what.

use std::time::Duration;

use agent_common::{kernel::Version, names::program, origin::rule_id, tag, toa::Kinds};
use anyhow::Result;
use nix::{
    libc::{AF_INET, AF_INET6},
    time::{ClockId, clock_gettime},
};

use super::{
    cgroups,
    maps::{self, Plain},
    object::Datapath,
};
use crate::{
    config::{Trust, keys::Keys},
    host::kernel,
};

impl Datapath {
    /// Says by which keys TOA is signed and verified, and what time it is.
    pub fn sign(&self, keys: Option<&Keys>) -> Result<()> {
        let now = |clock| clock_gettime(clock).map(Duration::from);
        let (wall, boot) = (now(ClockId::CLOCK_REALTIME)?, now(ClockId::CLOCK_BOOTTIME)?);
        let wall = (wall.as_nanos() as u64).wrapping_sub(boot.as_nanos() as u64);
        let entry = |keys: &Keys| (0, Plain(tag::Keys::new(wall, keys.first, keys.other)));
        maps::replace(&mut self.pins.keys()?, keys.map(entry))
    }

    /// Says who may speak for a client.
    ///
    /// # Errors
    ///
    /// When a cgroup is missing.
    pub(super) fn trust(&self, trust: &Trust) -> Result<()> {
        let uids = trust.uids.iter();
        let uids = uids.map(|uid| (*uid, rule_id(&Trust::uid_rule(*uid))));
        maps::replace(&mut self.pins.trusted_uids()?, uids)?;
        let cgroups = trust.cgroups.iter().map(|cgroup| {
            let rule = rule_id(&Trust::cgroup_rule(cgroup));
            Ok((cgroups::id(&self.cgroup_at(cgroup))?, rule))
        });
        let cgroups = cgroups.collect::<Result<Vec<_>>>()?;
        maps::replace(&mut self.pins.trusted_cgroups()?, cgroups)?;

        // Signers come before sources, so that no moment asks for less than the configuration before or this one.
        let exempt = trust.sources.iter().filter(|source| {
            let mut signers = trust.signers.iter();
            signers.any(|signer| signer.contains(*source)) && !trust.signers.contains(source)
        });
        let signers = trust.signers.iter();
        let signers = signers.map(|prefix| (*prefix, rule_id(&Trust::signer_rule(prefix))));
        let signers = signers.chain(exempt.map(|prefix| (*prefix, 0)));
        maps::replace_prefixes(&mut self.pins.signers()?, signers)?;
        let sources = trust.sources.iter();
        let sources = sources.map(|prefix| (*prefix, rule_id(&Trust::source_rule(prefix))));
        maps::replace_prefixes(&mut self.pins.trusted_sources()?, sources)?;

        let local = trust.local_source.iter().map(|address| {
            let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
            (family as u32, Plain((*address).into()))
        });
        maps::replace(&mut self.pins.local_sources()?, local)
    }

    /// Says what is taken for TOA.
    pub(super) fn read_toa(&self, kinds: Kinds) -> Result<()> {
        Ok(self.pins.toa()?.set(0, Plain(kinds), 0)?)
    }

    /// Attaches what reads TOA on its way to a listener, where the kernel cannot show the SYNs that a listener answers
    /// which is older than the agent. Returns the names of the pins.
    pub(super) fn attach_hear(&mut self) -> Result<Vec<String>> {
        if kernel::running()?.has(Version::ITERATOR_ASKS_FOR_SYNS) {
            return Ok(Vec::new());
        }
        cgroups::attach_to_root(&mut self.object, &self.pins, &self.cgroup, &[program::HEAR])
    }

    /// Attaches what takes the binds of trusted proxies as evidence. Returns the names of the pins.
    pub(super) fn attach_bind(&mut self) -> Result<Vec<String>> {
        let programs = [program::ASK, program::BIND4, program::BIND6];
        cgroups::attach_to_root(&mut self.object, &self.pins, &self.cgroup, &programs)
    }
}
