//! learn: who is believed, and by what.

use std::time::Duration;

use agent_common::{
    Address, tag,
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
    maps::{self, Plain, found},
    object::Datapath,
};
use crate::config::{Proxy, Speakers, Trust, TrustedSenders, keys::Keys};

/// Local proxies that rules believe, as the maps hold them.
#[derive(Default)]
pub(super) struct Proxies {
    uids: Vec<(u32, Plain<LocalProxy>)>,
    cgroups: Vec<(u64, Plain<LocalProxy>)>,
    sources: Vec<(Plain<LocalSource>, Plain<Address>)>,
}

impl Datapath {
    /// Says by which keys TOA is signed and verified, and what time it is.
    pub fn sign(&self, keys: Option<&Keys>) -> Result<()> {
        let now = |clock| clock_gettime(clock).map(Duration::from);
        let (wall, boot) = (now(ClockId::CLOCK_REALTIME)?, now(ClockId::CLOCK_BOOTTIME)?);
        let wall = (wall.as_nanos() as u64).wrapping_sub(boot.as_nanos() as u64);
        let entry = |keys: &Keys| (0, Plain(tag::Keys::new(wall, keys.first, keys.other)));
        maps::replace(&mut self.pins.keys()?, keys.map(entry))
    }

    /// Says who may speak for a client, and whether connections of local proxies are refused (`refuses`) whose client an
    /// application cannot express.
    pub(super) fn trust(&self, rules: &[Trust], refuses: bool) -> Result<()> {
        let senders = TrustedSenders::new(rules);
        let proxies = self.proxies(rules, refuses)?;
        let (mut ports, mut sources) = (self.pins.trusted_ports()?, self.pins.local_sources()?);
        // What a rule refers to comes before it and goes after it. While its speakers change, a rule that stays believes on
        // such ports only as it did before and will from now on.
        for (rule, wanted) in senders.ports() {
            let first = match found(ports.get(&rule, 0))? {
                Some(Plain(before)) => before.common(wanted),
                None => *wanted,
            };
            ports.insert(rule, Plain(first), 0)?;
        }
        let unwanted = maps::insert_all(&mut sources, proxies.sources)?;
        let prefixes = senders.prefixes();
        let prefixes = prefixes.map(|(prefix, sender)| (prefix, Plain(sender)));
        maps::replace_prefixes(&mut self.pins.trusted_sources()?, prefixes)?;
        maps::replace(&mut self.pins.trusted_uids()?, proxies.uids)?;
        maps::replace(&mut self.pins.trusted_cgroups()?, proxies.cgroups)?;
        for source in unwanted {
            sources.remove(&source)?;
        }
        let wanted = senders.ports().map(|(rule, ports)| (rule, Plain(*ports)));
        maps::replace(&mut ports, wanted)
    }

    /// The local proxies that the rules believe. Of a cgroup that is not there, there are none.
    fn proxies(&self, rules: &[Trust], refuses: bool) -> Result<Proxies> {
        let mut all = Proxies::default();
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
                let believed = Plain(LocalProxy {
                    rule: id,
                    reach: *reach as u8,
                    limited: (!rule.ports.is_empty()).into(),
                    expressed: refuses.into(),
                    padding: 0,
                });
                match proxy {
                    Proxy::Uid(uid) => all.uids.push((*uid, believed)),
                    Proxy::Cgroup(path) => {
                        let cgroup = cgroups::id(&self.cgroup_at(path))?;
                        all.cgroups.extend(cgroup.map(|id| (id, believed)));
                    }
                }
                all.sources.extend(local_source.iter().map(|address| {
                    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
                    let source = LocalSource {
                        rule: id,
                        family: family as u32,
                    };
                    (Plain(source), Plain((*address).into()))
                }));
            }
        }
        Ok(all)
    }

    /// Says what is taken for TOA.
    pub(super) fn read_toa(&self, kinds: Kinds) -> Result<()> {
        Ok(self.pins.toa()?.set(0, Plain(kinds), 0)?)
    }
}
