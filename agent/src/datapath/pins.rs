//! The data path's pins: the maps and links that outlive the agent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agent_common::names::map;
use anyhow::{Context as _, Result, bail};
use aya::{
    maps::MapData,
    programs::{
        ProgramError, ProgramInfo,
        links::{FdLink, LinkError, PinnedLink},
    },
    sys::SyscallError,
};

use super::{
    bpffs::{self, OwnMount},
    layout::Set,
    sys::{self, LinkInfo},
};

/// Prefix of a link's pin while the link is about to replace the one in use.
const NEW: &str = "new:";

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

    /// Where `truepeer doctor` pins a data path of its own, beside the agent's at `bpffs`. A doctor that was
    /// killed leaves it there; the next one removes it, and so does `truepeer detach`.
    pub fn of_doctor(bpffs: &Path) -> Self {
        Self {
            root: bpffs
                .parent()
                .map_or_else(PathBuf::new, |parent| parent.join("truepeer-probe")),
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether no program is pinned, by any version.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.link_names()?.is_empty() && self.filter_names()?.is_empty())
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
        pins.map_data(map::COUNTERS).with_context(|| {
            format!(
                "{} holds no data path of this version: start the agent, which replaces it, or type \
                 `truepeer detach`",
                root.display()
            )
        })?;
        Ok(pins)
    }

    /// Makes the directories, and mounts bpffs where there is none.
    pub fn create(&self) -> Result<()> {
        bpffs::provide(&self.root)?;
        bpffs::make_private(&self.root)?;
        let maps = Set::ALL.map(|set| self.root.join(set.directory()));
        let others = [self.links(), self.filters(), self.qdiscs()];
        for directory in maps.iter().chain(&others) {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(())
    }

    /// Removes every pin. That detaches the programs, unless somebody else holds their links.
    pub fn remove(&self) -> Result<()> {
        let mount = OwnMount::of(&self.root)?;
        let failed = || format!("cannot remove {}", self.root.display());
        if self.root.exists() {
            self.remove_maps(|_| true)?;
            for directory in [self.links(), self.filters(), self.qdiscs()] {
                ignore_missing(fs::remove_dir_all(directory)).with_context(failed)?;
            }
        }
        let is_mount_point = mount.as_ref().is_some_and(|m| m.is_at(&self.root));
        if !is_mount_point {
            ignore_missing(fs::remove_dir(&self.root)).with_context(failed)?;
        }
        if let Some(mount) = mount {
            mount.remove()?;
        }
        if is_mount_point {
            ignore_missing(fs::remove_dir(&self.root)).with_context(failed)?;
        }
        Ok(())
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The programs that clsact filters run.
    fn filters(&self) -> PathBuf {
        self.root.join("filters")
    }

    /// A directory for each clsact qdisc that truepeer added.
    fn qdiscs(&self) -> PathBuf {
        self.root.join("qdiscs")
    }

    /// Where the map with this name is pinned.
    pub(super) fn map_path(&self, name: &str) -> PathBuf {
        self.root.join(Set::of(name).directory()).join(name)
    }

    /// Where maps with this name are pinned, by this version and by others.
    pub(super) fn paths_of_all_versions(&self, name: &str) -> io::Result<Vec<PathBuf>> {
        let sets = self.sets()?.into_iter();
        let paths = sets.map(|set| self.root.join(set).join(name));
        Ok(paths.filter(|path| path.exists()).collect())
    }

    /// The names of the directories in which sets of maps are pinned, by this version and by others.
    fn sets(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.root)?.flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let is_set = |name: &String| Set::ALL.iter().any(|set| name.starts_with(set.prefix()));
        Ok(names.filter(is_set).collect())
    }

    /// Where the link with this name is pinned.
    pub(super) fn link_path(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// The map with this name.
    pub(super) fn map_data(&self, name: &str) -> Result<MapData> {
        let path = self.map_path(name);
        MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    /// Removes the sets of maps, of any version, whose directory is `unwanted`.
    pub(super) fn remove_maps(&self, unwanted: impl Fn(&str) -> bool) -> Result<()> {
        for name in self.sets()?.iter().filter(|name| unwanted(name)) {
            let path = self.root.join(name);
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes the maps of other versions.
    pub(super) fn remove_former_maps(&self) -> Result<()> {
        let is_current = |name: &str| Set::ALL.iter().any(|set| set.directory() == name);
        self.remove_maps(|name| !is_current(name))
    }

    /// Has `pin` pin a link, as `name`. A link of that name is replaced in one step, and detached by that: at no
    /// moment is there none.
    pub(super) fn pin_link(&self, name: &str, pin: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        replace(&self.links(), name, pin)
    }

    /// Has `pin` pin the program that a clsact filter runs, as `name`, instead of another.
    pub(super) fn pin_filter(
        &self,
        name: &str,
        pin: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        replace(&self.filters(), name, pin)
    }

    /// The link with this name; `None` when it is not, or no longer, pinned.
    pub(super) fn link(&self, name: &str) -> Result<Option<FdLink>> {
        let path = self.link_path(name);
        match PinnedLink::from_pin(&path) {
            Ok(link) => Ok(Some(link.into())),
            Err(LinkError::SyscallError(error)) if is_missing(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
        }
    }

    /// What the kernel says of the link with this name; `None` when it is not, or no longer, pinned.
    pub(super) fn link_info(&self, name: &str) -> Result<Option<LinkInfo>> {
        let path = self.link_path(name);
        let info = match sys::pinned(&path) {
            Ok(link) => sys::link_info(&link).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        info.with_context(|| format!("cannot open {}", path.display()))
    }

    /// The id of the program that the clsact filter with this name runs; `None` when none is, or is no longer,
    /// pinned.
    pub(super) fn filter(&self, name: &str) -> Result<Option<u32>> {
        let path = self.filter_path(name);
        match ProgramInfo::from_pin(&path) {
            Ok(program) => Ok(Some(program.id())),
            Err(ProgramError::SyscallError(error)) if is_missing(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
        }
    }

    /// Where the program of the clsact filter with this name is pinned.
    pub(super) fn filter_path(&self, name: &str) -> PathBuf {
        self.filters().join(name)
    }

    /// The names of all links, in order.
    pub(super) fn link_names(&self) -> Result<Vec<String>> {
        names(&self.links())
    }

    /// The names of all clsact filters, in order.
    pub(super) fn filter_names(&self) -> Result<Vec<String>> {
        names(&self.filters())
    }

    /// Unpins, and so detaches, a link, if it is there.
    pub(super) fn unpin_link(&self, name: &str) -> Result<()> {
        unpin(&self.links(), name)
    }

    /// Unpins the program of a clsact filter, if it is there.
    pub(super) fn unpin_filter(&self, name: &str) -> Result<()> {
        unpin(&self.filters(), name)
    }

    /// The mark of the clsact qdisc of an interface, by the inode of its network namespace and its index.
    pub(super) fn qdisc_mark(&self, netns: u64, index: u32) -> Mark {
        Mark(self.qdiscs().join(format!("{netns}:{index}")))
    }
}

/// Whether truepeer added something that the kernel does not let it pin. It lasts until the next boot, as that does.
pub(super) struct Mark(PathBuf);

impl Mark {
    pub(super) fn is_set(&self) -> bool {
        self.0.exists()
    }

    pub(super) fn set(&self) -> Result<()> {
        fs::create_dir(&self.0).with_context(|| format!("cannot create {}", self.0.display()))
    }

    pub(super) fn clear(&self) -> Result<()> {
        fs::remove_dir(&self.0).with_context(|| format!("cannot remove {}", self.0.display()))
    }
}

/// Has `pin` pin something in a directory, instead of what has that name.
fn replace(directory: &Path, name: &str, pin: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (new, path) = (directory.join(format!("{NEW}{name}")), directory.join(name));
    ignore_missing(fs::remove_file(&new))?;
    let failed = || format!("cannot pin a program at {}", path.display());
    pin(&new).with_context(failed)?;
    fs::rename(&new, &path).with_context(failed)
}

/// Removes a pin, and one that was to replace it when an agent died.
fn unpin(directory: &Path, name: &str) -> Result<()> {
    ignore_missing(fs::remove_file(directory.join(format!("{NEW}{name}"))))?;
    Ok(ignore_missing(fs::remove_file(directory.join(name)))?)
}

/// The names of all pins in a directory, in order, but for what is about to replace another.
fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with(NEW))
        .collect();
    names.sort();
    Ok(names)
}

fn is_missing(error: &SyscallError) -> bool {
    error.io_error.kind() == io::ErrorKind::NotFound
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
