//! unwrap: on which ports PROXY headers are taken off.
//!
//! Where a connection's sequence numbers are translated, or its header is still to come, the server would take other bytes
//! than the sender's for the next ones without the data path: such connections are reset before their port is given up. In
//! the meantime none begins (`Versions::ENDING`), and the programs go on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
};

use agent_common::{
    Connection,
    names::map,
    unwrap::{Handshake, Page, PageVersions, Versions, Whereabouts},
};
use anyhow::Result;

use super::{
    maps::{Plain, Unwraps, found, removed},
    object::Datapath,
    pins::Pins,
    streams::{self, Full, abort, ends, namespaces},
    sys,
};
use crate::host::sockets;

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
        let known = known(&self.pins.unwraps()?)?;
        self.replace_unwraps(&known, ports)
    }

    /// Puts these pages in the place of those that the map has.
    fn replace_unwraps(&self, known: &Unwrapped, wanted: &Unwrapped) -> Result<()> {
        let mut unwraps = self.pins.unwraps()?;
        give_up(&self.pins, &mut unwraps, known, wanted)?;
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

    /// Resets the connections that other versions' programs translate, which have other maps than this one's and are about to
    /// be replaced. Until the result is dropped, they begin no other.
    ///
    /// # Errors
    ///
    /// When pins, maps or namespaces cannot be listed.
    pub fn end_former_streams(&self) -> Result<Full> {
        let current = self.pins.map_path(map::TRANSLATED);
        streams::end(&self.pins, |path| path != current)
    }

    /// Forgets translated connections that never got a socket. `before`: what the last call returned.
    pub fn sweep(&self, before: &Orphans) -> Result<Orphans> {
        sweep(&self.pins, before)
    }
}

impl Pins {
    /// The ports with unwrap from which netfilter sent some connections elsewhere, as the answers told.
    pub fn elsewhere(&self) -> Result<BTreeSet<SocketAddr>> {
        let mut servers = BTreeSet::new();
        for entry in self.whereabouts()?.iter() {
            let (Plain(connection), whereabouts) = entry?;
            if whereabouts == Whereabouts::Elsewhere as u32 {
                servers.insert(connection.destination.socket_addr());
            }
        }
        Ok(servers)
    }
}

/// The pages of a map.
fn known(unwraps: &Unwraps) -> Result<Unwrapped> {
    let pages = unwraps.iter().map(|entry| {
        let (Plain(page), Plain(versions)) = entry?;
        Ok((page, versions))
    });
    pages.collect()
}

/// Entries without a socket, with what was known of the handshake.
pub type Orphans = HashMap<Connection, Option<Handshake>>;

/// Forgets connections that never got a socket, and never will: no end of a socket does. They were orphans the
/// last time, too, and no other connection has begun between the same ends. Returns those to look at the next
/// time.
fn sweep(pins: &Pins, before: &Orphans) -> Result<Orphans> {
    let mut translated = pins.translated()?;
    let keys = translated.keys().collect::<Result<Vec<_>, _>>()?;
    let mut orphans = Orphans::new();
    if keys.is_empty() {
        return Ok(orphans);
    }
    let handshakes = pins.unwrapping()?;
    let handshake = |key: &Plain<Connection>| -> Result<Option<Handshake>> {
        let handshake = found(handshakes.get(key, 0))?;
        Ok(handshake.map(|Plain(handshake)| handshake))
    };
    let namespaces = streams::namespaces()?;
    let mut by_netns: HashMap<u64, Vec<_>> = HashMap::new();
    for key in keys {
        by_netns.entry(key.0.netns).or_default().push(key);
    }
    for (cookie, keys) in by_netns {
        let ends: Vec<_> = keys.iter().map(|key| ends(&key.0)).collect();
        // Before the sockets are looked for: what begins later is not taken for what was there.
        let noted = keys.iter().map(handshake).collect::<Result<Vec<_>>>()?;
        let exist = match namespaces.get(&cookie) {
            Some(netns) => sockets::exist(netns, &ends)?,
            None => vec![false; keys.len()],
        };
        let all = keys.iter().zip(noted).zip(exist);
        for ((key, noted), _) in all.filter(|(_, exists)| !exists) {
            if before.get(&key.0) != Some(&noted) {
                orphans.insert(key.0, noted);
                continue;
            }
            removed(translated.remove(key))?;
            if handshake(key)? != noted {
                // One that has begun at this very moment may have lost its entry.
                streams::abort(&namespaces, &key.0);
            }
        }
    }
    Ok(orphans)
}

/// Gives all ports up: no connection is touched any more, and those that would break are reset.
pub(super) fn end_all(pins: &Pins) -> Result<()> {
    let mut unwraps = pins.unwraps()?;
    let known = known(&unwraps)?;
    give_up(pins, &mut unwraps, &known, &Unwrapped::new())?;
    streams::reset(&mut pins.translated()?, |_| true)
}

/// Gives up the ports that are `known` and not `wanted`. Whoever begins a connection to another port is left alone.
fn give_up(
    pins: &Pins,
    unwraps: &mut Unwraps,
    known: &Unwrapped,
    wanted: &Unwrapped,
) -> Result<()> {
    let mut gone = HashSet::new();
    for (page, versions) in known {
        let remain = wanted.get(page).unwrap_or(&PageVersions::NONE);
        let ports = versions.without(remain, page.number);
        gone.extend(ports.map(|port| (page.netns, port)));
        end(unwraps, *page, *versions, remain)?;
    }
    if gone.is_empty() {
        return Ok(());
    }
    reset(pins, |connection| {
        gone.contains(&(connection.netns, connection.destination.port))
    })
}

/// From now on, no connection begins to be touched on those ports of a page that do not `remain`.
fn end(
    unwraps: &mut Unwraps,
    page: Page,
    mut versions: PageVersions,
    remain: &PageVersions,
) -> Result<()> {
    let gone: Vec<_> = versions.without(remain, page.number).collect();
    for port in &gone {
        let ending = Versions(versions.of(*port).0 | Versions::ENDING.0);
        versions.set(*port, ending);
    }
    if !gone.is_empty() {
        unwraps.insert(Plain(page), Plain(versions), 0)?;
    }
    Ok(())
}

/// Resets those connections to ending ports that are `gone` and would break without the programs: at both ends, at once.
fn reset(pins: &Pins, gone: impl Fn(&Connection) -> bool) -> Result<()> {
    // No more handshakes begin.
    sys::wait_for_programs();
    let mut handshakes = pins.unwrapping()?;
    // Entries that come and go may have the list begin again.
    let most = 2 * pins.capacity(map::UNWRAPPING)? as usize;
    let known: HashSet<_> = (handshakes.iter().take(most)).collect::<Result<_, _>>()?;
    for (key, Plain(handshake)) in &known {
        if gone(&key.0) && !handshake.is_untouched() {
            removed(handshakes.remove(key))?;
        }
    }
    // No more headers are read.
    sys::wait_for_programs();
    let namespaces = namespaces()?;
    for (cookie, netns) in &namespaces {
        for (local, remote) in sockets::half_open(netns)? {
            let connection = Connection {
                netns: *cookie,
                source: remote.into(),
                destination: local.into(),
            };
            // Those that have begun since then have an entry, and the server has answered them.
            let known = found(handshakes.get(&Plain(connection), 0))?;
            let is_untouched =
                known.is_some_and(|Plain(known)| known.progress == Handshake::ANSWERED);
            if gone(&connection) && !is_untouched {
                abort(&namespaces, &connection);
            }
        }
    }
    streams::reset(&mut pins.translated()?, gone)
}
