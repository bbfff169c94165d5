//! Control groups (v2) for processes that are trusted as a group.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A cgroup of our own below the root, removed on drop. What was started in it must have ended.
pub struct Cgroup {
    root: PathBuf,
    name: String,
}

impl Cgroup {
    /// Makes it.
    pub fn new(role: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let root = mounts
            .lines()
            .find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                [_, point, "cgroup2", ..] => Some(PathBuf::from(point)),
                _ => None,
            })
            .context("no cgroup2 is mounted: `mount -t cgroup2 none /sys/fs/cgroup`")?;
        let name = format!("tp-{}-{role}", std::process::id());
        fs::create_dir(root.join(&name)).with_context(|| format!("cannot make cgroup {name}"))?;
        Ok(Self { root, name })
    }

    /// Its path from the root of the hierarchy.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
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
        // A process that was killed leaves its cgroup a moment later.
        for _ in 0..50 {
            match fs::remove_dir(self.root.join(&self.name)) {
                Ok(()) => return,
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
        eprintln!("the cgroup {} could not be removed", self.name);
    }
}
