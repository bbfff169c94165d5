//! The pinned maps, each with its type, and what is done with any of them.

use std::{cmp::Reverse, collections::HashSet, hash::Hash, io::ErrorKind};

use agent_common::{
    Address, Claim, Connection, ListenerKey, Namespace, Origin,
    guard::{Policy, Prefix, Tally},
    names::map,
    node::{Interface, Node},
    ports::Ports,
    tag::Keys,
    toa::Kinds,
    trust::{LocalProxy, LocalSource, Sender},
    unwrap::{Handshake, Page, PageVersions},
};
use anyhow::Result;
use aya::{
    Pod,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf,
        SkStorage, SockHash, lpm_trie::Key,
    },
};
use ipnet::IpNet;

use super::pins::Pins;

/// `bpf_map_update_elem` fails if there is an entry already (`BPF_NOEXIST` of linux/bpf.h).
pub(super) const NOEXIST: u64 = 1;

/// A type of agent-common as a map holds it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

/// Lets maps hold types of agent-common.
macro_rules! plain {
    ($($shared:ty),* $(,)?) => {
        $(
            // SAFETY: `repr(C)`, with explicit padding and without pointers, so that any bits are valid.
            unsafe impl Pod for Plain<$shared> {}
        )*
    };
}
plain!(
    Address,
    Claim,
    Connection,
    Handshake,
    Interface,
    Keys,
    Kinds,
    ListenerKey,
    LocalProxy,
    LocalSource,
    Namespace,
    Node,
    Origin,
    Page,
    PageVersions,
    Policy,
    Ports,
    Prefix,
    Sender,
);

/// Socket cookies with the sockets' origins.
pub(super) type Origins = HashMap<MapData, u64, Plain<Origin>>;
/// Address prefixes with something about each.
pub(super) type Prefixes<V> = LpmTrie<MapData, Plain<Address>, V>;
/// Unwrapping ports with the versions of the header.
pub(super) type Unwraps = HashMap<MapData, Plain<Page>, Plain<PageVersions>>;
/// Handshakes of connections that begin with a PROXY header.
pub(super) type Handshakes = HashMap<MapData, Plain<Connection>, Plain<Handshake>>;
/// Translated connections with the differences between their sequence numbers.
pub(super) type Translated = HashMap<MapData, Plain<Connection>, i32>;
/// Ports with their policies.
pub(super) type Policies = HashMap<MapData, u32, Plain<Policy>>;
/// Prefixes of policies with their verdicts.
pub(super) type PolicyPrefixes = LpmTrie<MapData, Plain<Prefix>, u32>;

/// One method for each map that the agent reads or writes.
impl Pins {
    fn map<M: TryFrom<Map, Error = MapError>>(&self, name: &str) -> Result<M> {
        Ok(M::try_from(Map::from_map_data(self.map_data(name)?)?)?)
    }

    /// How many entries a map can have.
    pub(super) fn capacity(&self, name: &str) -> Result<u32> {
        Ok(self.map_data(name)?.info()?.max_entries())
    }

    pub(super) fn origins(&self) -> Result<Origins> {
        self.map(map::ORIGINS)
    }

    pub(super) fn namespaces(&self) -> Result<HashMap<MapData, u64, Plain<Namespace>>> {
        self.map(map::NAMESPACES)
    }

    pub(super) fn counters(&self) -> Result<PerCpuArray<MapData, u64>> {
        self.map(map::COUNTERS)
    }

    pub(super) fn events(&self) -> Result<RingBuf<MapData>> {
        self.map(map::EVENTS)
    }

    pub(super) fn headers(&self) -> Result<RingBuf<MapData>> {
        self.map(map::HEADERS)
    }

    pub(super) fn proxies(&self) -> Result<SockHash<MapData, Plain<ListenerKey>>> {
        self.map(map::PROXIES)
    }

    pub(super) fn adopt(&self) -> Result<HashMap<MapData, u64, Plain<ListenerKey>>> {
        self.map(map::ADOPT)
    }

    pub(super) fn claims(&self) -> Result<SkStorage<MapData, Plain<Claim>>> {
        self.map(map::CLAIMS)
    }

    pub(super) fn trusted_uids(&self) -> Result<HashMap<MapData, u32, Plain<LocalProxy>>> {
        self.map(map::TRUSTED_UIDS)
    }

    pub(super) fn trusted_cgroups(&self) -> Result<HashMap<MapData, u64, Plain<LocalProxy>>> {
        self.map(map::TRUSTED_CGROUPS)
    }

    pub(super) fn trusted_sources(&self) -> Result<Prefixes<Plain<Sender>>> {
        self.map(map::TRUSTED_SOURCES)
    }

    pub(super) fn trusted_ports(&self) -> Result<HashMap<MapData, u32, Plain<Ports>>> {
        self.map(map::TRUSTED_PORTS)
    }

    pub(super) fn keys(&self) -> Result<HashMap<MapData, u32, Plain<Keys>>> {
        self.map(map::KEYS)
    }

    pub(super) fn toa(&self) -> Result<Array<MapData, Plain<Kinds>>> {
        self.map(map::TOA)
    }

    pub(super) fn local_sources(
        &self,
    ) -> Result<HashMap<MapData, Plain<LocalSource>, Plain<Address>>> {
        self.map(map::LOCAL_SOURCES)
    }

    pub(super) fn carry(&self) -> Result<Prefixes<u32>> {
        self.map(map::CARRY)
    }

    pub(super) fn nodes(&self) -> Result<HashMap<MapData, Plain<Interface>, Plain<Node>>> {
        self.map(map::NODES)
    }

    pub(super) fn node_addresses(&self) -> Result<HashMap<MapData, Plain<Address>, u8>> {
        self.map(map::NODE_ADDRESSES)
    }

    pub(super) fn unwraps(&self) -> Result<Unwraps> {
        self.map(map::UNWRAPS)
    }

    pub(super) fn unwrapping(&self) -> Result<Handshakes> {
        self.map(map::UNWRAPPING)
    }

    pub(super) fn translated(&self) -> Result<Translated> {
        self.map(map::TRANSLATED)
    }

    pub(super) fn policies(&self) -> Result<Policies> {
        self.map(map::POLICIES)
    }

    pub(super) fn policy_prefixes(&self) -> Result<PolicyPrefixes> {
        self.map(map::PREFIXES)
    }

    pub(super) fn tallies(&self) -> Result<PerCpuHashMap<MapData, u32, Tally>> {
        self.map(map::TALLIES)
    }
}

/// What a look-up found; `None`: there is no entry.
pub(super) fn found<T>(looked_up: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match looked_up {
        Err(MapError::KeyNotFound) => Ok(None),
        looked_up => looked_up.map(Some),
    }
}

/// Whether a removal removed an entry. aya reports a missing one as the system call's error, not as a missing key.
pub(super) fn removed(removal: Result<(), MapError>) -> Result<bool, MapError> {
    match removal {
        Ok(()) => Ok(true),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Makes a map hold what is wanted and nothing else.
pub(super) fn replace<K: Pod + Eq + Hash, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    wanted: impl IntoIterator<Item = (K, V)>,
) -> Result<()> {
    let unwanted = insert_all(map, wanted)?;
    for key in unwanted {
        map.remove(&key)?;
    }
    Ok(())
}

/// Makes a map hold what is wanted, and returns the keys of what it held and is not.
pub(super) fn insert_all<K: Pod + Eq + Hash, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    wanted: impl IntoIterator<Item = (K, V)>,
) -> Result<HashSet<K>> {
    let mut unwanted: HashSet<K> = map.keys().collect::<Result<_, _>>()?;
    for (key, value) in wanted {
        map.insert(key, value, 0)?;
        unwanted.remove(&key);
    }
    Ok(unwanted)
}

/// Makes a trie hold what is wanted and nothing else. Longer prefixes go in first and come out last, so that at every moment an
/// address finds what held for it before, or what holds from now on.
pub(super) fn replace_prefixes<V: Pod>(
    trie: &mut Prefixes<V>,
    wanted: impl IntoIterator<Item = (IpNet, V)>,
) -> Result<()> {
    let mut unwanted: HashSet<(u32, Address)> = trie
        .keys()
        .map(|key| key.map(|key| (key.prefix_len(), key.data().0)))
        .collect::<Result<_, _>>()?;
    let mut wanted: Vec<_> = wanted.into_iter().collect();
    wanted.sort_by_key(|(prefix, _)| Reverse(prefix_length(prefix)));
    for (prefix, value) in wanted {
        let address = Address::from(prefix.network());
        let length = prefix_length(&prefix);
        trie.insert(&Key::new(length, Plain(address)), value, 0)?;
        unwanted.remove(&(length, address));
    }
    let mut unwanted: Vec<_> = unwanted.into_iter().collect();
    unwanted.sort_by_key(|(length, _)| *length);
    for (length, address) in unwanted {
        trie.remove(&Key::new(length, Plain(address)))?;
    }
    Ok(())
}

/// The prefix's length in bits of an [`Address`], which holds IPv4 in mapped form.
pub(super) fn prefix_length(prefix: &IpNet) -> u32 {
    u32::from(prefix.prefix_len()) + Address::BITS - u32::from(prefix.max_prefix_len())
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya::sys::SyscallError;

    use super::*;

    fn failed(kind: ErrorKind) -> Result<(), MapError> {
        let call = "bpf_map_delete_elem";
        let io_error = io::Error::from(kind);
        Err(SyscallError { call, io_error }.into())
    }

    #[test]
    fn the_removal_of_nothing_is_no_failure() {
        assert!(removed(Ok(())).unwrap());
        assert!(!removed(failed(ErrorKind::NotFound)).unwrap());
        assert!(removed(failed(ErrorKind::PermissionDenied)).is_err());
    }
}
