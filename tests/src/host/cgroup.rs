//! Control groups (v2) for processes that are trusted as a group.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context as _, Result};

use crate::host::netns::PREFIX;
use crate::wait::eventually;

/// A cgroup of our own below the root, removed on drop with all cgroups in it; processes that are still
/// there are killed.
pub struct Cgroup {
    root: PathBuf,
    name: String,
}

impl Cgroup {
    /// Makes it.
    pub fn new(role: &str) -> Result<Self> {
        let root = root()?;
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        fs::create_dir(root.join(&name)).with_context(|| format!("cannot make cgroup {name}"))?;
        Ok(Self { root, name })
    }

    /// Its path from the root of the hierarchy.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Makes a cgroup in it, or in one of those, and has this user own it, as one who is given it does.
    pub fn give(&self, below: &str, uid: u32) -> Result<()> {
        let path = self.root.join(&self.name).join(below);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(chown(path, Some(uid), None)?)
    }

    /// Moves a process to one of the cgroups in it.
    pub fn add(&self, below: &str, pid: u32) -> Result<()> {
        let processes = self.root.join(&self.name).join(below).join("cgroup.procs");
        fs::write(&processes, pid.to_string()).with_context(|| processes.display().to_string())
    }

    /// Has what `command` starts be in the cgroup from its first moment on, whichever user's it is.
    pub fn admit(&self, command: &mut Command) -> Result<()> {
        let processes = self.root.join(&self.name).join("cgroup.procs");
        let file = File::options().write(true).open(&processes);
        let file = file.with_context(|| processes.display().to_string())?;
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            // Zero is the process that writes it. The kernel asks what whoever opened the file may.
            command.pre_exec(move || (&file).write_all(b"0"));
        }
        Ok(())
    }

    /// Runs `f` with this process in the cgroup: what it starts stays there.
    pub fn run<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = self
            .root
            .join(own.context("this process is in no cgroup v2")?);
        join(&self.root.join(&self.name))?;
        let outcome = f();
        join(&own)?;
        outcome
    }
}

fn join(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("cannot join {}", cgroup.display()))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.root.join(&self.name)) {
            eprintln!("{error:#}");
        }
    }
}

/// Where cgroup v2 is mounted.
pub(crate) fn root() -> Result<PathBuf> {
    let mut mounts = mounts("cgroup2")?;
    mounts
        .pop()
        .context("no cgroup2 is mounted: `mount -t cgroup2 none /sys/fs/cgroup`")
}

/// Kills what runs in a cgroup (v2), and removes it with all cgroups in it and with the cgroups of version 1 that
/// container runtimes make under its name.
pub(crate) fn remove(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.kill"), "1")?;
    let mut all = vec![cgroup.to_owned()];
    let name = cgroup.file_name().unwrap_or_default();
    all.extend(mounts("cgroup")?.into_iter().map(|root| root.join(name)));
    for cgroup in all.iter().filter(|cgroup| cgroup.exists()) {
        let what = format!("{} is removed", cgroup.display());
        // A process that was killed leaves its cgroup a moment later.
        eventually(&what, || Ok(remove_tree(cgroup).is_ok().then_some(())))?;
    }
    Ok(())
}

/// Where hierarchies of this kind are mounted.
fn mounts(kind: &str) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let points = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?;
        (fields.next()? == kind).then(|| point.into())
    });
    Ok(points.collect())
}

fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
