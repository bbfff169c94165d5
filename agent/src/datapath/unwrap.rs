//! unwrap: on which ports PROXY headers are taken off.

use std::collections::{BTreeMap, HashSet};

use agent_common::unwrap::{Page, PageVersions, Versions};
use anyhow::Result;

use super::{
    maps::{Plain, found},
    object::Datapath,
    translated::{self, Orphans, reset},
};

/// Ports on which headers are taken off, by pages.
pub type Unwrapped = BTreeMap<Page, PageVersions>;

impl Datapath {
    /// Takes headers off these ports of one namespace, and no longer off the others of `before`.
    pub fn unwrap(&self, before: &Unwrapped, ports: &Unwrapped) -> Result<()> {
        let unwraps = self.pins.unwraps()?;
        let (mut known, mut wanted) = (Unwrapped::new(), Unwrapped::new());
        for page in before.keys().chain(ports.keys()) {
            let versions = found(unwraps.get(&Plain(*page), 0))?;
            known.extend(versions.map(|Plain(versions)| (*page, versions)));
            let of = |all: &Unwrapped| *all.get(page).unwrap_or(&PageVersions::NONE);
            let (mut versions, before, ports) = (of(&known), of(before), of(ports));
            for port in before.without(&ports, page.number) {
                versions.set(port, Versions::default());
            }
            // What neither says stays as it is: it may have been left to be given up later.
            for port in ports.without(&PageVersions::NONE, page.number) {
                versions.set(port, ports.of(port));
            }
            if versions != PageVersions::NONE {
                wanted.insert(*page, versions);
            }
        }
        self.replace_unwraps(&known, &wanted)
    }

    /// Takes headers off these ports only, in all namespaces.
    pub(super) fn retain_unwraps(&self, ports: &Unwrapped) -> Result<()> {
        let unwraps = self.pins.unwraps()?;
        let known = unwraps.iter().map(|entry| {
            let (Plain(page), Plain(versions)) = entry?;
            Ok((page, versions))
        });
        self.replace_unwraps(&known.collect::<Result<_>>()?, ports)
    }

    /// Puts these pages in the place of those that the map has.
    fn replace_unwraps(&self, known: &Unwrapped, wanted: &Unwrapped) -> Result<()> {
        let gone = known.iter().flat_map(|(page, versions)| {
            let remain = wanted.get(page).unwrap_or(&PageVersions::NONE);
            let gone = versions.without(remain, page.number);
            gone.map(|port| (page.netns, port))
        });
        let gone: HashSet<_> = gone.collect();
        if !gone.is_empty() {
            reset(&mut self.pins.translated()?, |connection| {
                gone.contains(&(connection.netns, connection.destination.port))
            })?;
        }
        let mut unwraps = self.pins.unwraps()?;
        for (page, versions) in wanted {
            if known.get(page) != Some(versions) {
                unwraps.insert(Plain(*page), Plain(*versions), 0)?;
            }
        }
        for page in known.keys().filter(|page| !wanted.contains_key(page)) {
            unwraps.remove(&Plain(*page))?;
        }
        Ok(())
    }

    /// Forgets translated connections that never got a socket. `before`: what the last call returned.
    pub fn sweep(&self, before: &Orphans) -> Result<Orphans> {
        translated::sweep(&self.pins, before)
    }
}
