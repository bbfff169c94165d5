//! learn: who is believed, and by what.

use std::time::Duration;

use agent_common::{
    kernel::Version,
    names::program,
    tag,
    toa::Kinds,
    trust::{LocalProxy, LocalSource},
};
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
    config::{Proxy, Speakers, Trust, TrustedSenders, keys::Keys},
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
    pub(super) fn trust(&self, rules: &[Trust]) -> Result<()> {
        let senders = TrustedSenders::new(rules);
        // Ports come first, because a rule that is limited to ports believes nothing without them.
        let ports = senders.ports().map(|(rule, ports)| (rule, Plain(*ports)));
        maps::replace(&mut self.pins.trusted_ports()?, ports)?;
        let prefixes = senders.prefixes();
        let prefixes = prefixes.map(|(prefix, sender)| (prefix, Plain(sender)));
        maps::replace_prefixes(&mut self.pins.trusted_sources()?, prefixes)?;

        let (mut uids, mut cgroups, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        for rule in rules {
            let Speakers::Proxies {
                proxies,
                reach,
                local_source,
            } = &rule.speakers
            else {
                continue;
            };
            for proxy in proxies {
                let id = rule.of_proxy(proxy).id;
                let believed = LocalProxy {
                    rule: id,
                    reach: *reach as u8,
                    limited: (!rule.ports.is_empty()).into(),
                    padding: [0; 2],
                };
                match proxy {
                    Proxy::Uid(uid) => uids.push((*uid, Plain(believed))),
                    Proxy::Cgroup(path) => {
                        cgroups.push((cgroups::id(&self.cgroup_at(path))?, Plain(believed)));
                    }
                }
                sources.extend(local_source.iter().map(|address| {
                    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
                    let family = family as u32;
                    (
                        Plain(LocalSource { rule: id, family }),
                        Plain((*address).into()),
                    )
                }));
            }
        }
        maps::replace(&mut self.pins.local_sources()?, sources)?;
        maps::replace(&mut self.pins.trusted_uids()?, uids)?;
        maps::replace(&mut self.pins.trusted_cgroups()?, cgroups)
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
