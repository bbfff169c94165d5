//! The data path as other rooms see it: the traits that it implements, and its status.

use std::{collections::HashMap, os::fd::BorrowedFd};

use agent_common::{Address, Claim, Counter, Origin, guard::Tally};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Read access to the data path's records.
pub trait Origins: Send + Sync + 'static {
    /// The origin of the socket with this cookie; `None` when truepeer knows none.
    fn get(&self, cookie: u64) -> Result<Option<Origin>>;

    /// Every origin with its cookie, in no order. A socket that opens or closes meanwhile may or may not be among them.
    fn all(&self) -> Result<Vec<(u64, Origin)>>;

    /// The data path's programs, maps and counters.
    fn status(&self) -> Result<Status>;
}

/// The part of the data path that relays use.
pub trait Claims: Send + Sync + 'static {
    /// The origin of an accepted socket, by its cookie; `None` when truepeer knows none.
    fn origin(&self, cookie: u64) -> Result<Option<Origin>>;

    /// Records the origin of an accepted socket, and replaces the one that it may have. The data path removes it when the
    /// socket closes, if it [follows](Claims::follow) the listener.
    fn learn(&self, cookie: u64, origin: Origin) -> Result<()>;

    /// Removes the origin of a socket that closed while it was recorded, or whose end the relay tells itself.
    fn forget(&self, cookie: u64) -> Result<()>;

    /// Whether the policies let a client connect to a port.
    fn allows(&self, client: Address, port: u16) -> Result<bool>;

    /// Makes the data path follow the connections that a socket accepts once it listens.
    fn follow(&self, listener: BorrowedFd<'_>) -> Result<()>;

    /// Makes a socket that is not connected yet speak for a client.
    fn claim(&self, socket: BorrowedFd<'_>, claim: Claim) -> Result<()>;
}

/// The PROXY headers with TLVs that the data path took off.
pub trait Headers: Send + Sync + 'static {
    /// Hands each header since the last call to `each`, with its number and as it was sent (version 2).
    fn read(&self, each: &mut dyn FnMut(u64, &[u8]));
}

/// The data path as it stands, read from its pins.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Each attached program.
    pub links: Vec<Link>,
    /// Each map that can fill up.
    pub maps: Vec<MapFill>,
    /// Each counter with its value, summed over the CPUs.
    #[serde(serialize_with = "counters_by_name")]
    pub counters: Vec<(Counter, u64)>,
    /// How many connections each policy let in and refused, by the id of its rule.
    #[serde(skip)]
    pub tallies: HashMap<u32, Tally>,
}

/// A program and what it is attached to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Link {
    /// Name of the program in the BPF object.
    pub program: String,
    /// Kernel id of the program.
    pub program_id: u32,
    /// What the program is attached to, for people: `eth0 in /run/netns/pod`, `cgroup /`.
    pub target: String,
    /// Where the link is pinned.
    pub pin: std::path::PathBuf,
}

/// How full a map is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MapFill {
    /// Name of the map.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries at most.
    pub max_entries: u64,
}

fn counters_by_name<S: serde::Serializer>(
    counters: &[(Counter, u64)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(counters.iter().map(|(counter, n)| (counter.name(), n)))
}
