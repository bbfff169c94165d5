//! The end of translated connections: before the programs that translate them go, or change a map that they need, both ends
//! are reset. Without translation the server would take other bytes than the sender's for the next ones.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
};

use agent_common::{Connection, names::map};
use anyhow::Result;
use aya::maps::{Map, MapData};
use tracing::warn;

use super::{
    maps::{Plain, Translated},
    pins::Pins,
};
use crate::host::{netns::Netns, sockets};

/// Maps without room: the programs that use them refuse connections which they would have to translate. There is room again
/// when this is dropped.
#[must_use]
pub struct Full(#[expect(dead_code, reason = "held, not read")] Vec<Filled>);

/// A map with this many entries that only take room.
struct Filled(Translated, u64);

impl Filled {
    fn fill(&mut self) {
        while self.0.insert(filler(self.1), 0, 0).is_ok() {
            self.1 += 1;
        }
    }

    /// Resets all connections of the map. None is removed, as that would make room for another.
    fn end(&mut self) -> Result<()> {
        let mut known = HashSet::new();
        loop {
            self.fill();
            // Until they are listed, whatever has begun has got its socket.
            let namespaces = namespaces()?;
            let keys = self.0.keys().collect::<Result<Vec<_>, _>>()?;
            let real = keys.into_iter().filter(|key| key.0.destination.port != 0);
            let new: Vec<_> = real.filter(|key| known.insert(key.0)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for key in new {
                abort(&namespaces, &key.0);
            }
        }
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        for number in 0..self.1 {
            let _ = self.0.remove(&filler(number));
        }
    }
}

/// A connection that cannot be: its ends have no port.
fn filler(number: u64) -> Plain<Connection> {
    Plain(Connection {
        netns: number,
        ..Connection::default()
    })
}

/// Resets all connections that are translated by maps whose pin is among `paths`, of any version, and has no other begin.
///
/// # Errors
///
/// When pins, maps or namespaces cannot be listed.
pub(super) fn end(pins: &Pins, paths: impl Fn(&Path) -> bool) -> Result<Full> {
    let all = pins.paths_of_all_versions(map::TRANSLATED)?.into_iter();
    let maps = all.filter(|path| paths(path)).filter_map(|path| {
        let opened = open(&path);
        let failed = |error| {
            warn!(
                "connections translated by {} break: {error:#}",
                path.display()
            )
        };
        opened.map_err(failed).ok()
    });
    let mut full: Vec<_> = maps.map(|map| Filled(map, 0)).collect();
    for filled in &mut full {
        filled.end()?;
    }
    Ok(Full(full))
}

fn open(path: &Path) -> Result<Translated> {
    let map = Map::from_map_data(MapData::from_pin(path)?)?;
    Ok(Translated::try_from(map)?)
}

/// Resets those that are `gone`: at both ends, at once.
pub(super) fn reset(translated: &mut Translated, gone: impl Fn(&Connection) -> bool) -> Result<()> {
    let keys = translated.keys().collect::<Result<Vec<_>, _>>()?;
    let connections: Vec<_> = keys.iter().filter(|key| gone(&key.0)).collect();
    if connections.is_empty() {
        return Ok(());
    }
    let namespaces = namespaces()?;
    for key in connections {
        abort(&namespaces, &key.0);
        // The end of the socket removed it, if there was one.
        let _ = translated.remove(key);
    }
    Ok(())
}

/// Resets a connection, if there is one.
pub(super) fn abort(namespaces: &HashMap<u64, Netns>, connection: &Connection) {
    let (local, remote) = ends(connection);
    if let Some(netns) = namespaces.get(&connection.netns)
        && let Err(error) = sockets::abort(netns, local, remote)
    {
        warn!("the connection from {remote} to {local} will break: {error:#}");
    }
}

/// The server's end, and the sender's.
pub(super) fn ends(connection: &Connection) -> (SocketAddr, SocketAddr) {
    let Connection {
        source,
        destination,
        ..
    } = connection;
    (destination.socket_addr(), source.socket_addr())
}

/// Those of the host, by their cookies.
pub(super) fn namespaces() -> Result<HashMap<u64, Netns>> {
    Ok(Netns::all()?.into_iter().map(|n| (n.cookie(), n)).collect())
}
