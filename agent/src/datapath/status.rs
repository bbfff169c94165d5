//! What the data path knows and how full it is, read from its pins: with or without an agent.

use std::collections::HashMap;

use agent_common::{Counter, Origin, names::map};
use anyhow::Result;

use super::{
    guard, links,
    maps::{Plain, found},
    pins::Pins,
};
use crate::connections::origins::{Link, MapFill, Origins, Status};

impl Origins for Pins {
    fn get(&self, cookie: u64) -> Result<Option<Origin>> {
        let origin = found(self.origins()?.get(&cookie, 0))?;
        Ok(origin.map(|Plain(origin)| origin))
    }

    fn all(&self) -> Result<Vec<(u64, Origin)>> {
        // The kernel starts an iteration anew when the key that it stands on is deleted.
        let mut all = HashMap::new();
        for entry in self.origins()?.iter() {
            let (cookie, Plain(origin)) = entry?;
            all.insert(cookie, origin);
        }
        Ok(all.into_iter().collect())
    }

    fn status(&self) -> Result<Status> {
        let counters = counters(self)?;
        let links = self.link_names()?.into_iter().map(|name| link(self, &name));
        let filters = self.filter_names()?.into_iter();
        let links = links.chain(filters.map(|name| filter(self, &name)));
        // What was unpinned since the names were read is attached no more.
        let links = links.filter_map(Result::transpose);
        Ok(Status {
            links: links.collect::<Result<_>>()?,
            maps: vec![
                MapFill {
                    name: map::ORIGINS.into(),
                    entries: origins_in_use(&counters),
                    max_entries: self.capacity(map::ORIGINS)?.into(),
                },
                MapFill {
                    name: map::NAMESPACES.into(),
                    entries: self.namespaces()?.keys().count() as u64,
                    max_entries: self.capacity(map::NAMESPACES)?.into(),
                },
                MapFill {
                    name: map::TRANSLATED.into(),
                    entries: self.translated()?.keys().count() as u64,
                    max_entries: self.capacity(map::TRANSLATED)?.into(),
                },
            ],
            counters,
            tallies: guard::tallies(self)?,
        })
    }
}

/// Each counter with its value, summed over the CPUs.
fn counters(pins: &Pins) -> Result<Vec<(Counter, u64)>> {
    let counters = pins.counters()?;
    Counter::ALL
        .into_iter()
        .map(|counter| Ok((counter, counters.get(&(counter as u32), 0)?.iter().sum())))
        .collect()
}

/// How many origins there are by what was counted: a hash does not tell how full it is, and to count a million
/// entries takes a second.
fn origins_in_use(counters: &[(Counter, u64)]) -> u64 {
    let of = |wanted| counters.iter().find(|(counter, _)| *counter == wanted);
    let of = |wanted| of(wanted).map_or(0, |(_, n)| *n);
    let learnt = [
        Counter::LearntWire,
        Counter::LearntBind,
        Counter::LearntToa,
        Counter::LearntProxy,
        Counter::LearntRelay,
        Counter::LearntXff,
    ];
    let learnt: u64 = learnt.map(of).iter().sum();
    learnt.saturating_sub(of(Counter::Closed) + of(Counter::Forgotten) + of(Counter::Swept))
}

/// The link that is pinned by this name; `None`: it is no longer.
fn link(pins: &Pins, name: &str) -> Result<Option<Link>> {
    let Some(link) = pins.link(name)? else {
        return Ok(None);
    };
    let (program, target) = links::describe(name);
    Ok(Some(Link {
        program,
        program_id: link.info()?.program_id(),
        target,
        pin: pins.link_path(name),
    }))
}

/// The clsact filter whose program is pinned by this name; `None`: it is no longer.
fn filter(pins: &Pins, name: &str) -> Result<Option<Link>> {
    let Some(program_id) = pins.filter(name)? else {
        return Ok(None);
    };
    let (program, target) = links::describe(name);
    Ok(Some(Link {
        program,
        program_id,
        target,
        pin: pins.filter_path(name),
    }))
}
