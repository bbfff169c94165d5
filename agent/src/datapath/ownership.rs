//! Whose programs the kernel runs.
//!
//! Pins do not tell all: another bpffs may be mounted over them, and then nobody sees what goes on running. So each program of
//! an agent has a map beside those that it uses, as the kernel allows for such notes (`BPF_PROG_BIND_MAP`): it holds the
//! directory of the agent's pins. Whoever lists the kernel's programs finds there to whom they belong.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use agent_common::names::{map, program};
use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{Array, Map, MapData, MapInfo},
    programs::{ProgramInfo, loaded_links, loaded_programs},
};
use tracing::{debug, warn};

use super::{
    pins::Pins,
    programs::{self, still_there},
    streams, sys,
};
use crate::host::cgroups::cgroup2_mount;

/// The map's name, and its pin's.
const OWNER: &str = "truepeer_owner";

/// What the map holds: the directory of the pins, and the cgroup whose processes the agent serves. Each node of a cluster that
/// runs in containers of one host has a cgroup of its own, and may use the same directory in a mount namespace of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Owner {
    /// As much as there is room for, with zeros behind it.
    directory: [u8; 248],
    cgroup: u64,
}

// SAFETY: `repr(C)`, without padding and without pointers, so that any bits are valid.
unsafe impl Pod for Owner {}

impl Owner {
    fn new(pins: &Pins) -> Result<Self> {
        let mut directory = [0; 248];
        let bytes = pins.root().as_os_str().as_bytes();
        let length = bytes.len().min(directory.len());
        directory[..length].copy_from_slice(&bytes[..length]);
        let cgroup = fs::metadata(cgroup2_mount()?)?.ino();
        Ok(Self { directory, cgroup })
    }

    fn directory(&self) -> &Path {
        let bytes = self.directory.split(|byte| *byte == 0).next();
        Path::new(OsStr::from_bytes(bytes.unwrap_or_default()))
    }
}

/// A link of truepeer's that the kernel has.
struct Attached {
    link: u32,
    owner: Owner,
    /// The ids of the maps that its program uses.
    maps: Vec<u32>,
}

/// Notes on a program that it belongs to the agent with these pins.
pub(super) fn mark(pins: &Pins, program: BorrowedFd<'_>) -> Result<()> {
    let map = owner_map(pins).context("cannot say whose programs these are")?;
    sys::bind_map(program, map.as_fd()).context("cannot say whose program this is")
}

/// The map that says so.
fn owner_map(pins: &Pins) -> Result<OwnedFd> {
    let path = pins.map_path(OWNER);
    if let Ok(map) = sys::pinned(&path) {
        return Ok(map);
    }
    let map = sys::create_array(OWNER, size_of::<Owner>() as u32)?;
    sys::pin(&map, &path)?;
    let mut owner: Array<MapData, Owner> = Map::Array(MapData::from_pin(&path)?).try_into()?;
    owner.set(0, Owner::new(pins)?, 0)?;
    Ok(map)
}

/// The directories of the pins of other agents whose programs the kernel runs.
pub fn others(pins: &Pins) -> Result<HashSet<PathBuf>> {
    let own = Owner::new(pins)?;
    let others = attached()?.into_iter().map(|link| link.owner);
    let others = others.filter(|owner| *owner != own);
    Ok(others.map(|owner| owner.directory().to_owned()).collect())
}

/// How many programs of the agent with these pins are attached and cannot be reached by them.
pub fn stranded(pins: &Pins) -> Result<usize> {
    Ok(find_stranded(pins)?.len())
}

/// Detaches the programs of the agent with these pins that cannot be reached by them, before others take their place: two at a
/// time would both change a packet.
pub(super) fn detach_stranded(pins: &Pins) -> Result<()> {
    let stranded = find_stranded(pins)?;
    if stranded.is_empty() {
        return Ok(());
    }
    warn!(
        "{} programs of an earlier agent are detached, whose pins are not at {} any more: another file system may be \
         mounted over them. The clients of connections in progress become unknown",
        stranded.len(),
        pins.root().display()
    );
    detach(&stranded)
}

/// Detaches all programs of the agent with these pins, pinned or not.
pub(super) fn detach_all(pins: &Pins) -> Result<()> {
    let owner = Owner::new(pins)?;
    let mut own = attached()?;
    own.retain(|link| link.owner == owner);
    detach(&own)
}

/// The directory of another agent's pins, if a program with this id is its.
pub(super) fn other_owner(pins: &Pins, program: u32) -> Result<Option<PathBuf>> {
    let info = programs::loaded(program)?;
    let found = info.and_then(|info| owner(&info, &mut HashMap::new()));
    let own = Owner::new(pins)?;
    let other = found.map(|(owner, _)| owner).filter(|owner| *owner != own);
    Ok(other.map(|owner| owner.directory().to_owned()))
}

fn find_stranded(pins: &Pins) -> Result<Vec<Attached>> {
    let mut pinned = HashSet::new();
    for name in pins.link_names()? {
        pinned.extend(pins.link_info(&name)?.map(|link| link.id));
    }
    let owner = Owner::new(pins)?;
    let mut stranded = attached()?;
    stranded.retain(|link| link.owner == owner && !pinned.contains(&link.link));
    Ok(stranded)
}

fn detach(links: &[Attached]) -> Result<()> {
    // Without the data path, the server would take other bytes than the sender's.
    let maps: HashSet<u32> = links.iter().flat_map(|link| link.maps.clone()).collect();
    for id in maps {
        if let Err(error) = reset_translated(id) {
            debug!("map {id}: {error:#}");
        }
    }
    for link in links {
        // One that has gone meanwhile is detached, too.
        if let Ok(fd) = sys::link(link.link) {
            let detached = sys::detach(&fd);
            detached.with_context(|| format!("cannot detach the BPF link {}", link.link))?;
        }
    }
    Ok(())
}

/// Resets the connections that the map with this id tells, if it is that of translated connections.
fn reset_translated(id: u32) -> Result<()> {
    if MapInfo::from_id(id)?.name_as_str() != Some(map::TRANSLATED) {
        return Ok(());
    }
    let translated = Map::HashMap(MapData::from_id(id)?);
    streams::reset(&mut translated.try_into()?, |_| true)
}

/// The links of all programs that say whose they are.
fn attached() -> Result<Vec<Attached>> {
    let mut owners = HashMap::new();
    let mut programs = HashMap::new();
    for info in loaded_programs().filter_map(still_there) {
        let info = info.context("cannot list the kernel's BPF programs")?;
        let prefix = program::PREFIX.as_bytes();
        if info.name().starts_with(prefix)
            && let Some((owner, maps)) = owner(&info, &mut owners)
        {
            programs.insert(info.id(), (owner, maps));
        }
    }
    let mut links = Vec::new();
    for link in loaded_links().filter_map(still_there) {
        let link = link.context("cannot list the kernel's BPF links")?;
        if let Some((owner, maps)) = programs.get(&link.program_id()) {
            links.push(Attached {
                link: link.id(),
                owner: *owner,
                maps: maps.clone(),
            });
        }
    }
    Ok(links)
}

/// Whose a program is, and its maps. `known` says of maps whether they tell an owner, and whom.
fn owner(
    program: &ProgramInfo,
    known: &mut HashMap<u32, Option<Owner>>,
) -> Option<(Owner, Vec<u32>)> {
    let maps = program.map_ids().ok()??;
    let mut owners = maps.iter().filter_map(|id| {
        let owner = known.entry(*id);
        *owner.or_insert_with(|| read(*id).ok().flatten())
    });
    let owner = owners.next()?;
    Some((owner, maps))
}

/// Whom the map with this id names, if it is such a map.
fn read(id: u32) -> Result<Option<Owner>> {
    if MapInfo::from_id(id)?.name_as_str() != Some(OWNER) {
        return Ok(None);
    }
    let owner: Array<MapData, Owner> = Map::Array(MapData::from_id(id)?).try_into()?;
    Ok(Some(owner.get(&0, 0)?))
}
