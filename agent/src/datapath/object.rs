//! The BPF object, and the data path that is made of it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use agent_common::names::{self, map, program};
use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, EbpfLoader};
use tracing::{level_filters::LevelFilter, warn};

use super::{
    cgroups,
    layout::{Definition, Set},
    links, ownership,
    pins::Pins,
    programs::{self, OBJECT},
    streams,
};
use crate::host::netns::Framing;

/// The data path of this host. It stays in place when this value, or the agent, is gone: only
/// [`super::remove`] takes it away.
pub struct Datapath {
    pub(super) pins: Pins,
    /// Device and inode of their directory.
    home: (u64, u64),
    loader: EbpfLoader<'static>,
    /// Holds the programs of the host, and the iterator that adopts listeners.
    pub(super) object: Ebpf,
    /// The root of the cgroup v2 hierarchy.
    pub(super) cgroup: PathBuf,
    /// The host's programs that are always there, and their pins.
    pub(super) needed: Vec<&'static str>,
    pub(super) always: Vec<String>,
    /// Pins of the host's programs that the configuration needs.
    pub(super) by_need: Vec<String>,
}

impl Datapath {
    /// Puts in place what learns origins, for all processes below `cgroup` (the root of the cgroup v2
    /// hierarchy). `origins` is the size of the map of origins; `processes` says whether to note who has a
    /// connection. A data path that an agent left is taken over, with as much of what it knows as this version understands;
    /// at no moment do neither work.
    pub fn load(root: &Path, origins: u32, processes: bool, cgroup: &Path) -> Result<Self> {
        let mut datapath = Self::open(root, origins, processes, cgroup)?;
        datapath.begin()?;
        Ok(datapath)
    }

    /// The same, but for the programs, which [`Datapath::govern`] attaches: until then, what an agent has left goes on.
    pub fn open(root: &Path, origins: u32, processes: bool, cgroup: &Path) -> Result<Self> {
        let pins = Pins::new(root);
        pins.create()?;
        ownership::detach_stranded(&pins)?;
        take_over(&pins, origins)?;
        pins.create()?;
        let mut loader = loader(&pins, origins, processes)?;
        let object = load_object(&mut loader, 0, Framing::Ethernet)?;
        let mut needed = vec![program::LEARN, program::PORT4, program::PORT6];
        if processes {
            needed.push(program::RELEASE);
        }
        Ok(Self {
            home: place(&pins)?,
            pins,
            loader,
            object,
            cgroup: cgroup.to_owned(),
            needed,
            always: Vec::new(),
            by_need: Vec::new(),
        })
    }

    /// Attaches what learns origins, unless it is attached.
    pub(super) fn begin(&mut self) -> Result<()> {
        if !self.always.is_empty() {
            return Ok(());
        }
        detach_strange_lookups(&self.pins)?;
        let (object, pins) = (&mut self.object, &self.pins);
        self.always = cgroups::attach_to_root(object, pins, &self.cgroup, &self.needed)?;
        Ok(())
    }

    /// Where the maps and links are pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Fails when the pins are out of reach.
    pub fn reach(&self) -> Result<()> {
        ensure!(
            place(&self.pins).ok() == Some(self.home),
            "the pins of this agent are no longer at {}: another file system is mounted over them, or somebody has removed \
             them. Programs that are pinned elsewhere go on as they are; unmount what covers them, or start the agent anew",
            self.pins.root().display()
        );
        Ok(())
    }

    /// Loads the object anew, for the packet programs of devices like this in the namespace with this cookie.
    pub(super) fn load_for(&mut self, netns: u64, framing: Framing) -> Result<Ebpf> {
        load_object(&mut self.loader, netns, framing)
    }
}

/// Device and inode of the directory of the pins.
fn place(pins: &Pins) -> Result<(u64, u64)> {
    let found = fs::metadata(pins.root())?;
    Ok((found.dev(), found.ino()))
}

/// Removes the maps that are of no use: those that were made otherwise, and all if the end of a socket may have been missed.
/// Those of other versions stay for as long as its programs run.
fn take_over(pins: &Pins, origins: u32) -> Result<()> {
    // Without the program that deletes origins, they may name sockets that are long gone.
    if !pins.link(program::LEARN).is_ok_and(|link| link.is_some()) {
        streams::end(pins, |_| true)?.stay();
        return pins.remove_maps(|_| true);
    }
    for set in Set::ALL {
        if fits(pins, set, origins)? {
            continue;
        }
        match set {
            Set::Streams => {
                streams::end(pins, |path| path == pins.map_path(map::TRANSLATED))?.stay();
            }
            Set::Knowledge => {
                warn!("`origins` has changed: connections in progress become unknown")
            }
        }
        pins.remove_maps(|name| name == set.directory())?;
    }
    if pins.map_path(map::TRANSLATED).exists() {
        streams::make_room(&mut pins.translated()?)?;
    }
    Ok(())
}

/// Detaches `sk_lookup` where it uses other maps than these programs will. Who begins connections on this host is written into
/// these maps from now on; it would not know, and would bring a proxy's own connections back to the proxy, over and over. Until
/// it is attached anew, what it would steer passes.
fn detach_strange_lookups(pins: &Pins) -> Result<()> {
    let own = pins.map_data(map::OWN)?.info()?.id();
    let pinned = pins.link_names()?.into_iter();
    for name in pinned.filter(|name| links::describe(name).0 == program::LOOKUP) {
        let link = pins.link_info(&name)?;
        let info = link.map_or(Ok(None), |link| programs::loaded(link.program_id))?;
        let maps = info.map_or(Ok(None), |info| info.map_ids())?;
        if maps.is_some_and(|maps| !maps.contains(&own)) {
            pins.unpin_link(&name)?;
        }
    }
    Ok(())
}

/// Whether the maps of a set that are pinned are what this version and this configuration want.
fn fits(pins: &Pins, set: Set, origins: u32) -> Result<bool> {
    let pinned: Vec<_> = set
        .maps()
        .filter(|name| pins.map_path(name).exists())
        .collect();
    if pinned.is_empty() {
        return Ok(true);
    }
    for name in &pinned {
        let wanted = match Definition::of(name) {
            wanted if *name == map::ORIGINS => wanted.with_room_for(origins),
            wanted => wanted,
        };
        let Ok(map) = pins.map_data(name) else {
            return Ok(false);
        };
        if !wanted.fits(&map.info()?)? {
            return Ok(false);
        }
    }
    Ok(pinned.len() == set.maps().count())
}

/// What is the same for each load of the object. To make it takes longer than all loads, because aya reads the
/// kernel's BTF for it.
fn loader(pins: &Pins, origins: u32, processes: bool) -> Result<EbpfLoader<'static>> {
    let mut loader = programs::loader()?;
    loader.map_max_entries(map::ORIGINS, origins);
    loader.override_global(names::PROCESSES, if processes { &1_u8 } else { &0 }, true);
    for name in map::ALL {
        loader.map_pin_path(name, pins.map_path(name));
    }
    Ok(loader)
}

/// Loads the object for devices like this in the namespace with this cookie. Maps that are pinned are used again.
fn load_object(loader: &mut EbpfLoader<'static>, netns: u64, framing: Framing) -> Result<Ebpf> {
    let link_header = match framing {
        Framing::Ethernet => &names::ETHERNET,
        Framing::Ip => &0,
    };
    // The loader borrows globals for as long as it lives, which is as long as the agent: nine bytes
    // a namespace.
    loader
        .override_global(names::LINK_HEADER, link_header, true)
        .override_global(names::NETNS, &*Box::leak(Box::new(netns)), true)
        .override_global(aya_log::LEVEL, &*Box::leak(Box::new(log_level())), true);
    loader.load(OBJECT).context("cannot load the BPF object")
}

/// The level up to which the programs log: that of the agent's own subscriber.
fn log_level() -> u8 {
    let level = match LevelFilter::current() {
        LevelFilter::TRACE => aya_log::Level::Trace,
        LevelFilter::DEBUG => aya_log::Level::Debug,
        LevelFilter::INFO => aya_log::Level::Info,
        LevelFilter::WARN => aya_log::Level::Warn,
        LevelFilter::ERROR => aya_log::Level::Error,
        _ => return 0,
    };
    level as u8
}
