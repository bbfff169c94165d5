//! One agent a data path.

use std::{fs::File, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Held while this agent owns the pins of a directory. The kernel lets go of it when the agent dies.
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Lock {
    /// Takes the lock of `directory`.
    ///
    /// # Errors
    ///
    /// When another agent has it: names its process.
    pub(super) fn take(directory: &Path) -> Result<Self> {
        if let Some(lock) = Self::try_take(directory)? {
            return Ok(lock);
        }
        let who = Self::holder(directory)?.map_or_else(
            || "another agent".to_owned(),
            |pid| format!("another agent (process {pid})"),
        );
        bail!(
            "{who} serves {}: stop it first, take over from it (`truepeer run --takeover`), or set another `bpffs` and \
             `socket`",
            directory.display()
        );
    }

    /// Takes the lock of `directory`; `None`: another agent has it.
    pub(super) fn try_take(directory: &Path) -> Result<Option<Self>> {
        match Flock::lock(open(directory)?, FlockArg::LockExclusiveNonblock) {
            // An agent that ended meanwhile may have removed the directory, whose lock then is worth nothing.
            Ok(lock) if lock.metadata()?.ino() == open(directory)?.metadata()?.ino() => {
                Ok(Some(Self(lock)))
            }
            Ok(_) => Self::try_take(directory),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => {
                Err(errno).with_context(|| format!("cannot lock {}", directory.display()))
            }
        }
    }

    /// The process that holds the lock of `directory`, as `/proc/locks` tells.
    pub(super) fn holder(directory: &Path) -> Result<Option<i32>> {
        let inode = open(directory)?.metadata()?.ino();
        let locks = procfs::locks().unwrap_or_default();
        let lock = locks
            .into_iter()
            .find(|lock| lock.inode == inode && lock.lock_type == procfs::LockType::FLock);
        Ok(lock.and_then(|lock| lock.pid))
    }
}

fn open(directory: &Path) -> Result<File> {
    File::open(directory).with_context(|| format!("cannot open {}", directory.display()))
}
