//! The end of translated connections: before the programs that translate them go, or change a map that they need, both ends
//! are reset. Without translation the server would take other bytes than the sender's for the next ones.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use agent_common::{Connection, names::map};
use anyhow::Result;
use aya::maps::{Map, MapData};
use tracing::warn;

use super::{
    maps::{Plain, Translated, removed},
    pins::Pins,
};
use crate::host::{netns::Netns, sockets};

/// How long the end of connections is waited for before they are reset.
const MOMENT: Duration = Duration::from_millis(50);
/// How long connections are reset that begin while others end, at most, when all that were there first have been.
const PATIENCE: Duration = Duration::from_secs(5);

/// Maps without room: the programs that use them refuse connections which they would have to translate. There is room again
/// when this is dropped.
#[must_use]
pub struct Full(Vec<Filled>);

impl Full {
    /// Leaves no room, for maps that nobody finds any more and that go with the programs that use them.
    pub(super) fn stay(mut self) {
        for filled in &mut self.0 {
            filled.number = 0;
        }
    }
}

/// A map some of whose entries only take room.
struct Filled {
    map: Translated,
    /// How many were made here, and how many entries there can be.
    number: u64,
    size: usize,
}

impl Filled {
    /// The map with this pin, as it is.
    fn open(path: &Path) -> Result<Self> {
        let map = MapData::from_pin(path)?;
        Ok(Self {
            number: 0,
            size: map.info()?.max_entries() as usize,
            map: Translated::try_from(Map::from_map_data(map)?)?,
        })
    }

    /// Takes the room that there is.
    fn fill(&mut self) {
        while self.map.insert(filler(self.number), 0, 0).is_ok() {
            self.number += 1;
        }
    }

    /// Resets all connections of the map, until it has none. As long as it has one, that one's end makes room for another.
    fn end(&mut self) -> Result<()> {
        let mut deadline = None;
        let mut known = HashSet::new();
        loop {
            // Connections that last for a moment make room for each other, and for this between two of them.
            let moment = Instant::now() + MOMENT;
            while Instant::now() < moment && self.number < self.size as u64 {
                self.fill();
            }
            // A listing goes on from a key that is gone at the beginning.
            let listed = self.map.keys().take(2 * self.size);
            let listed = listed.collect::<Result<HashSet<_>, _>>()?;
            let (fillers, real): (Vec<_>, Vec<_>) =
                listed.into_iter().partition(|key| is_filler(&key.0));
            // An entry that was there when the map was filled, and is not now, has left room.
            if real.is_empty() && fillers.len() >= self.size {
                return Ok(());
            }
            let (new, old): (Vec<&Plain<_>>, Vec<_>) =
                real.iter().partition(|key| known.insert(key.0));
            // Until they are listed, whatever has begun has got its socket.
            let namespaces = namespaces()?;
            for key in new.iter().chain(&old) {
                abort(&namespaces, &key.0);
                // Its place is taken at once.
                self.fill();
            }
            // What was reset before, or never got a socket, is forgotten.
            for key in old {
                removed(self.map.remove(key))?;
                self.fill();
            }
            if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + PATIENCE) {
                warn!(
                    "the map of translated connections of the programs that go has {} entries that are none, of {}: \
                     connections that begin now may break",
                    fillers.len(),
                    self.size
                );
                return Ok(());
            }
        }
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        for number in 0..self.number {
            let _ = self.map.remove(&filler(number));
        }
    }
}

/// Whether an entry only takes room.
fn is_filler(connection: &Connection) -> bool {
    connection.destination.port == 0
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
        let opened = Filled::open(&path);
        let failed = |error| {
            warn!(
                "connections translated by {} break: {error:#}",
                path.display()
            )
        };
        opened.map_err(failed).ok()
    });
    let mut full: Vec<_> = maps.collect();
    for filled in &mut full {
        filled.end()?;
    }
    Ok(Full(full))
}

/// Makes room that an agent took which died before it gave it back.
pub(super) fn make_room(translated: &mut Translated) -> Result<()> {
    let keys = translated.keys().collect::<Result<Vec<_>, _>>()?;
    for key in keys.iter().filter(|key| is_filler(&key.0)) {
        removed(translated.remove(key))?;
    }
    Ok(())
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
