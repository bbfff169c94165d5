//! The data path's pins: what outlives the agent, and how it is read.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    hash::Hash,
    io,
    path::{Path, PathBuf},
};

use agent_common::{
    Address, Claim, Connection, Counter, ListenerKey, Namespace, Origin,
    guard::{Policy, Prefix, Tally},
    names::{LAYOUT, map},
    node::{Interface, Node},
    tag::Keys,
    toa::Kinds,
    unwrap::{Handshake, UnwrapPort},
};
use anyhow::{Context as _, Result, bail};
use aya::{
    Pod,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf,
        SkStorage, lpm_trie::Key,
    },
    programs::links::{FdLink, PinnedLink},
};
use ipnet::IpNet;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::connections::origins::{Link, MapFill, Origins, Status};

/// Mount source by which a file system that truepeer mounted is known again.
const MOUNT_SOURCE: &str = "truepeer";
/// Where bpffs usually is.
const BPFFS: &str = "/sys/fs/bpf";
/// Prefix of a link's pin while it is about to replace the one in use.
const NEW: &str = "new:";

/// A shared type as the kernel's maps hold it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: `repr(C)` types of agent-common, with explicit padding and no pointers.
unsafe impl Pod for Plain<Origin> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Namespace> {}
// SAFETY: as above.
unsafe impl Pod for Plain<ListenerKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Kinds> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Keys> {}
// SAFETY: as above.
unsafe impl Pod for Plain<UnwrapPort> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Interface> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Node> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Connection> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Handshake> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Address> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Claim> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Policy> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Prefix> {}

/// Address prefixes with a number each.
pub(super) type Prefixes = LpmTrie<MapData, Plain<Address>, u32>;
/// Unwrapping ports with the versions of the header.
pub(super) type Unwraps = HashMap<MapData, Plain<UnwrapPort>, u32>;
/// Ports with their policies.
pub(super) type Policies = HashMap<MapData, u32, Plain<Policy>>;
/// Handshakes of connections that begin with a PROXY header.
pub(super) type Handshakes = HashMap<MapData, Plain<Connection>, Plain<Handshake>>;
/// Prefixes of policies with their verdicts.
pub(super) type PolicyPrefixes = LpmTrie<MapData, Plain<Prefix>, u32>;

/// The directory on bpffs that holds truepeer's maps and links.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The pins below `root` (`bpffs` of the configuration). Nothing is touched.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pins of a data path that is in place, with or without an agent.
    ///
    /// # Errors
    ///
    /// When there are none, or only those of another version.
    pub fn open(root: &Path) -> Result<Self> {
        let pins = Self::new(root);
        if !root.exists() {
            bail!(
                "no truepeer runs on this host: nothing is pinned at {}",
                root.display()
            );
        }
        pins.map(map::COUNTERS).with_context(|| {
            format!(
                "{} holds no data path of this version: start the agent, which replaces it, or type \
                 `truepeer detach`",
                root.display()
            )
        })?;
        Ok(pins)
    }

    pub(super) fn map_path(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn link_path(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    fn maps(&self) -> PathBuf {
        self.root.join(format!("maps-{LAYOUT}"))
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Makes the directories, and mounts bpffs where there is none.
    pub(super) fn create(&self) -> Result<()> {
        let mount_point = if self.root.starts_with(BPFFS) {
            Path::new(BPFFS)
        } else {
            &self.root
        };
        fs::create_dir_all(mount_point)
            .with_context(|| format!("cannot create {}", mount_point.display()))?;
        let is_bpffs = statfs(mount_point).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC);
        if !is_bpffs {
            mount(
                Some(MOUNT_SOURCE),
                mount_point,
                Some("bpf"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                None::<&str>,
            )
            .with_context(|| {
                format!(
                    "{0} is not on bpffs and cannot be mounted: type `mount -t bpf bpf {0}`, or set \
                     `bpffs` to a directory on one",
                    mount_point.display()
                )
            })?;
        }
        for directory in [self.maps(), self.links()] {
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(())
    }

    /// Removes every pin. What was attached is thereby detached, unless somebody else holds it.
    pub fn remove(&self) -> Result<()> {
        let mount = mounts()?
            .into_iter()
            .find(|m| m.source == MOUNT_SOURCE && self.root.starts_with(&m.point));
        let failed = || format!("cannot remove {}", self.root.display());
        if self.root.exists() {
            self.remove_maps(false)?;
            ignore_missing(fs::remove_dir_all(self.links())).with_context(failed)?;
        }
        // Somebody else's pins keep the file system.
        let kernels_own = |name: &OsStr| name == "maps.debug" || name == "progs.debug";
        let is_mount_point = mount.as_ref().is_some_and(|m| m.point == self.root);
        if !is_mount_point {
            ignore_missing(fs::remove_dir(&self.root)).with_context(failed)?;
        }
        if let Some(Mount { point, .. }) = mount
            && fs::read_dir(&point)
                .is_ok_and(|entries| entries.flatten().all(|e| kernels_own(&e.file_name())))
        {
            // Lazily: the agent's lock still holds the directory.
            umount2(&point, MntFlags::MNT_DETACH)
                .with_context(|| format!("cannot unmount {}", point.display()))?;
        }
        if is_mount_point {
            ignore_missing(fs::remove_dir(&self.root)).with_context(failed)?;
        }
        Ok(())
    }

    /// Removes the maps, of this version or another.
    pub(super) fn remove_maps(&self, keep_current: bool) -> Result<()> {
        for entry in fs::read_dir(&self.root)?.flatten() {
            let path = entry.path();
            let is_maps = entry.file_name().to_string_lossy().starts_with("maps-");
            if is_maps && !(keep_current && path == self.maps()) {
                fs::remove_dir_all(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Has `pin` pin a link, as `name`. A link of that name is replaced, and detached only then, so
    /// that there is no moment without.
    pub(super) fn pin_link(&self, name: &str, pin: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (new, path) = (
            self.links().join(format!("{NEW}{name}")),
            self.links().join(name),
        );
        ignore_missing(fs::remove_file(&new))?;
        let failed = || format!("cannot pin a program at {}", path.display());
        pin(&new).with_context(failed)?;
        fs::rename(&new, &path).with_context(failed)
    }

    /// Unpins, and so detaches, the links that `keep` does not want.
    pub(super) fn retain_links(&self, keep: impl Fn(&str) -> bool) -> Result<()> {
        for name in self.link_names()? {
            if !keep(&name) {
                self.unpin_link(&name)?;
            }
        }
        Ok(())
    }

    /// Unpins, and so detaches, a link, if it is there.
    pub(super) fn unpin_link(&self, name: &str) -> Result<()> {
        Ok(ignore_missing(fs::remove_file(self.link_path(name)))?)
    }

    fn link_names(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(self.links()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    fn map(&self, name: &str) -> Result<MapData> {
        let path = self.map_path(name);
        MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    pub(super) fn origins(&self) -> Result<HashMap<MapData, u64, Plain<Origin>>> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::ORIGINS)?,
        )?)?)
    }

    pub(super) fn namespaces(&self) -> Result<HashMap<MapData, u64, Plain<Namespace>>> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::NAMESPACES)?,
        )?)?)
    }

    pub(super) fn adopt(&self) -> Result<HashMap<MapData, u64, Plain<ListenerKey>>> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::ADOPT)?,
        )?)?)
    }

    pub(super) fn adopt_capacity(&self) -> Result<usize> {
        Ok(self.map(map::ADOPT)?.info()?.max_entries() as usize)
    }

    pub(super) fn events(&self) -> Result<RingBuf<MapData>> {
        Ok(RingBuf::try_from(Map::from_map_data(
            self.map(map::EVENTS)?,
        )?)?)
    }

    pub(super) fn headers(&self) -> Result<RingBuf<MapData>> {
        Ok(RingBuf::try_from(Map::from_map_data(
            self.map(map::HEADERS)?,
        )?)?)
    }

    pub(super) fn trusted_uids(&self) -> Result<HashMap<MapData, u32, u32>> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::TRUSTED_UIDS)?,
        )?)?)
    }

    pub(super) fn trusted_cgroups(&self) -> Result<HashMap<MapData, u64, u32>> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::TRUSTED_CGROUPS)?,
        )?)?)
    }

    pub(super) fn trusted_sources(&self) -> Result<Prefixes> {
        Ok(LpmTrie::try_from(Map::from_map_data(
            self.map(map::TRUSTED_SOURCES)?,
        )?)?)
    }

    pub(super) fn signers(&self) -> Result<Prefixes> {
        Ok(LpmTrie::try_from(Map::from_map_data(
            self.map(map::SIGNERS)?,
        )?)?)
    }

    pub(super) fn keys(&self) -> Result<HashMap<MapData, u32, Plain<Keys>>> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::KEYS)?,
        )?)?)
    }

    pub(super) fn carry(&self) -> Result<Prefixes> {
        Ok(LpmTrie::try_from(Map::from_map_data(
            self.map(map::CARRY)?,
        )?)?)
    }

    pub(super) fn unwraps(&self) -> Result<Unwraps> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::UNWRAPS)?,
        )?)?)
    }

    pub(super) fn nodes(&self) -> Result<HashMap<MapData, Plain<Interface>, Plain<Node>>> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::NODES)?,
        )?)?)
    }

    pub(super) fn translated(&self) -> Result<HashMap<MapData, Plain<Connection>, i32>> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::TRANSLATED)?,
        )?)?)
    }

    pub(super) fn unwrapping(&self) -> Result<Handshakes> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::UNWRAPPING)?,
        )?)?)
    }

    pub(super) fn toa(&self) -> Result<Array<MapData, Plain<Kinds>>> {
        Ok(Array::try_from(Map::from_map_data(self.map(map::TOA)?)?)?)
    }

    pub(super) fn local_sources(&self) -> Result<HashMap<MapData, u32, Plain<Address>>> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::LOCAL_SOURCES)?,
        )?)?)
    }

    pub(super) fn claims(&self) -> Result<SkStorage<MapData, Plain<Claim>>> {
        Ok(SkStorage::try_from(Map::from_map_data(
            self.map(map::CLAIMS)?,
        )?)?)
    }

    pub(super) fn counter_slots(&self) -> Result<PerCpuArray<MapData, u64>> {
        Ok(PerCpuArray::try_from(Map::from_map_data(
            self.map(map::COUNTERS)?,
        )?)?)
    }

    pub(super) fn policies(&self) -> Result<Policies> {
        Ok(HashMap::try_from(Map::from_map_data(
            self.map(map::POLICIES)?,
        )?)?)
    }

    pub(super) fn prefixes(&self) -> Result<PolicyPrefixes> {
        Ok(LpmTrie::try_from(Map::from_map_data(
            self.map(map::PREFIXES)?,
        )?)?)
    }

    pub(super) fn tallies(&self) -> Result<PerCpuHashMap<MapData, u32, Tally>> {
        Ok(PerCpuHashMap::try_from(Map::from_map_data(
            self.map(map::TALLIES)?,
        )?)?)
    }

    fn counters(&self) -> Result<Vec<(Counter, u64)>> {
        let counters = self.counter_slots()?;
        Counter::ALL
            .into_iter()
            .map(|counter| Ok((counter, counters.get(&(counter as u32), 0)?.iter().sum())))
            .collect()
    }
}

impl Origins for Pins {
    fn get(&self, cookie: u64) -> Result<Option<Origin>> {
        match self.origins()?.get(&cookie, 0) {
            Ok(Plain(origin)) => Ok(Some(origin)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn all(&self) -> Result<Vec<(u64, Origin)>> {
        // The kernel starts an iteration anew when the key that it stands on is deleted.
        let mut all = std::collections::HashMap::new();
        for entry in self.origins()?.iter() {
            match entry {
                Ok((cookie, Plain(origin))) => drop(all.insert(cookie, origin)),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all.into_iter().collect())
    }

    fn status(&self) -> Result<Status> {
        let counters = self.counters()?;
        let of = |wanted| {
            counters
                .iter()
                .find(|(c, _)| *c == wanted)
                .map_or(0, |(_, n)| *n)
        };
        let origins = MapFill {
            name: map::ORIGINS.into(),
            // A hash does not tell how full it is, and counting a million entries takes a second.
            entries: [
                Counter::LearntWire,
                Counter::LearntBind,
                Counter::LearntToa,
                Counter::LearntProxy,
                Counter::LearntRelay,
                Counter::LearntXff,
            ]
            .map(of)
            .iter()
            .sum::<u64>()
            .saturating_sub(of(Counter::Closed)),
            max_entries: self.map(map::ORIGINS)?.info()?.max_entries().into(),
        };
        let namespaces = MapFill {
            name: map::NAMESPACES.into(),
            entries: self.namespaces()?.keys().count() as u64,
            max_entries: self.map(map::NAMESPACES)?.info()?.max_entries().into(),
        };
        let translated = MapFill {
            name: map::TRANSLATED.into(),
            entries: self.translated()?.keys().count() as u64,
            max_entries: self.map(map::TRANSLATED)?.info()?.max_entries().into(),
        };
        let links = self.link_names()?.into_iter().map(|name| {
            let pin = self.links().join(&name);
            let info = FdLink::from(PinnedLink::from_pin(&pin)?).info()?;
            let (program, target) = super::attach::describe(&name);
            Ok(Link {
                program,
                program_id: info.program_id(),
                target,
                pin,
            })
        });
        Ok(Status {
            links: links.collect::<Result<_>>()?,
            maps: vec![origins, namespaces, translated],
            counters,
            tallies: super::guard::tallies(self)?,
        })
    }
}

/// Makes a map hold what is wanted and nothing else.
pub(super) fn replace<K: Pod + Eq + Hash, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    wanted: Vec<(K, V)>,
) -> Result<()> {
    let mut unwanted: HashSet<K> = map.keys().collect::<Result<_, _>>()?;
    for (key, value) in wanted {
        map.insert(key, value, 0)?;
        unwanted.remove(&key);
    }
    for key in unwanted {
        map.remove(&key)?;
    }
    Ok(())
}

/// Makes a trie hold what is wanted and nothing else.
pub(super) fn replace_prefixes(
    trie: &mut Prefixes,
    wanted: impl IntoIterator<Item = (IpNet, u32)>,
) -> Result<()> {
    let mut unwanted: HashSet<(u32, Address)> = trie
        .keys()
        .map(|key| key.map(|key| (key.prefix_len(), key.data().0)))
        .collect::<Result<_, _>>()?;
    for (prefix, value) in wanted {
        let address = Address::from(prefix.network());
        let length = length(&prefix);
        trie.insert(&Key::new(length, Plain(address)), value, 0)?;
        unwanted.remove(&(length, address));
    }
    for (length, address) in unwanted {
        trie.remove(&Key::new(length, Plain(address)))?;
    }
    Ok(())
}

/// The prefix's length in bits of an [`Address`].
pub(super) fn length(prefix: &IpNet) -> u32 {
    u32::from(prefix.prefix_len()) + Address::BITS - u32::from(prefix.max_prefix_len())
}

struct Mount {
    source: String,
    point: PathBuf,
}

fn mounts() -> Result<Vec<Mount>> {
    let mounts = procfs::process::Process::myself()?.mountinfo()?;
    Ok(mounts
        .into_iter()
        .filter_map(|m| {
            Some(Mount {
                source: m.mount_source?,
                point: m.mount_point,
            })
        })
        .collect())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
