//! The pinned maps in which the programs of unwrap keep what they know of connections.

use std::net::SocketAddr;
use std::path::Path;

use agent_common::{
    Claim, Connection, Counter, Syn,
    names::map,
    unwrap::{Habit, Handshake, Page, PageVersions},
};
use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};

use super::running::Agent;

/// A type of agent-common as a map holds it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

/// Lets maps hold types of agent-common.
macro_rules! plain {
    ($($shared:ty),*) => {
        $(
            // SAFETY: `repr(C)`, with explicit padding and without pointers, so that any bits are valid.
            unsafe impl Pod for Plain<$shared> {}
        )*
    };
}
plain!(Claim, Connection, Habit, Handshake, Page, PageVersions, Syn);

type Hash<K, V> = HashMap<MapData, K, V>;

/// What the programs of unwrap know.
pub struct Maps {
    /// Cookie of the only network namespace in which headers are taken off.
    netns: u64,
    handshakes: Hash<Plain<Connection>, Plain<Handshake>>,
    translated: Hash<Plain<Connection>, i32>,
    lingering: Hash<Plain<Connection>, i32>,
    handovers: Hash<Plain<Syn>, Plain<Claim>>,
    lengths: Hash<Plain<Habit>, u32>,
    counters: PerCpuArray<MapData, u64>,
}

impl Agent {
    /// The maps of its data path, which takes headers off in one network namespace. They stay, whatever becomes of the agent,
    /// as long as the data path is pinned.
    pub fn maps(&self) -> Result<Maps> {
        let bpffs = &self.config().agent.bpffs;
        let unwraps: Hash<Plain<Page>, Plain<PageVersions>> =
            open(bpffs, map::UNWRAPS)?.try_into()?;
        let page = unwraps.keys().next().context("no port with unwrap")?;
        let Plain(Page { netns, .. }) = page?;
        Ok(Maps {
            netns,
            handshakes: open(bpffs, map::UNWRAPPING)?.try_into()?,
            translated: open(bpffs, map::TRANSLATED)?.try_into()?,
            lingering: open(bpffs, map::LINGERING)?.try_into()?,
            handovers: open(bpffs, map::HANDOVERS)?.try_into()?,
            lengths: open(bpffs, map::LENGTHS)?.try_into()?,
            counters: open(bpffs, map::COUNTERS)?.try_into()?,
        })
    }
}

/// The map with this name, which is in one of the directories of pins.
fn open(bpffs: &Path, name: &str) -> Result<Map> {
    let sets = std::fs::read_dir(bpffs)?.flatten();
    let mut paths = sets.map(|set| set.path().join(name));
    let path = paths.find(|path| path.exists());
    let path = path.with_context(|| format!("no map {name} below {}", bpffs.display()))?;
    Ok(Map::from_map_data(MapData::from_pin(path)?)?)
}

/// `None` if there is no entry.
fn found<V>(entry: Result<V, MapError>) -> Result<Option<V>> {
    match entry {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the maps have of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries {
    /// `UNWRAPPING`, without the rule.
    pub handshake: Option<Handshake>,
    /// `TRANSLATED`.
    pub delta: Option<i32>,
    /// `LINGERING`.
    pub lingering: Option<i32>,
    /// `LENGTHS`, of its sender.
    pub usual: Option<u32>,
}

impl Maps {
    /// What they have of the connection between these ends.
    pub fn entries(&self, source: SocketAddr, target: SocketAddr) -> Result<Entries> {
        let key = self.connection(source, target);
        let handshake = found(self.handshakes.get(&key, 0))?;
        Ok(Entries {
            handshake: handshake.map(|Plain(known)| Handshake { rule: 0, ..known }),
            delta: found(self.translated.get(&key, 0))?,
            lingering: found(self.lingering.get(&key, 0))?,
            usual: found(self.lengths.get(&self.habit(source, target), 0))?,
        })
    }

    /// The client in the header of the connection whose SYN had this number when the server saw it, until it is accepted.
    pub fn client(
        &self,
        source: SocketAddr,
        target: SocketAddr,
        isn: u32,
    ) -> Result<Option<SocketAddr>> {
        let claim = found(self.handovers.get(&syn(source, target, isn), 0))?;
        Ok(claim.map(|Plain(claim)| claim.client.socket_addr()))
    }

    /// Removes what they have of the handshake between these ends, as if it were evicted.
    pub fn forget_handshake(&mut self, source: SocketAddr, target: SocketAddr) -> Result<()> {
        let key = self.connection(source, target);
        Ok(self.handshakes.remove(&key)?)
    }

    /// The same for a connection that has ended.
    pub fn forget_lingering(&mut self, source: SocketAddr, target: SocketAddr) -> Result<()> {
        let key = self.connection(source, target);
        Ok(self.lingering.remove(&key)?)
    }

    /// The same for what [`Self::client`] tells.
    pub fn forget_client(
        &mut self,
        source: SocketAddr,
        target: SocketAddr,
        isn: u32,
    ) -> Result<()> {
        Ok(self.handovers.remove(&syn(source, target, isn))?)
    }

    /// Has the sender's next header expected to be this long.
    pub fn expect(&mut self, source: SocketAddr, target: SocketAddr, length: u32) -> Result<()> {
        let habit = self.habit(source, target);
        Ok(self.lengths.insert(habit, length, 0)?)
    }

    /// How far a counter has come.
    pub fn count(&self, counter: Counter) -> Result<u64> {
        let values = self.counters.get(&(counter as u32), 0)?;
        Ok(values.iter().sum())
    }

    fn connection(&self, source: SocketAddr, target: SocketAddr) -> Plain<Connection> {
        Plain(Connection {
            netns: self.netns,
            source: source.into(),
            destination: target.into(),
        })
    }

    fn habit(&self, source: SocketAddr, target: SocketAddr) -> Plain<Habit> {
        Plain(Habit {
            netns: [self.netns as u32, (self.netns >> 32) as u32],
            sender: source.ip().into(),
            port: target.port(),
            padding: 0,
        })
    }
}

fn syn(source: SocketAddr, target: SocketAddr, isn: u32) -> Plain<Syn> {
    Plain(Syn {
        source: source.into(),
        destination: target.into(),
        isn,
    })
}
