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
        let open = || {
            File::open(directory).with_context(|| format!("cannot open {}", directory.display()))
        };
        match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
            // An agent that ended meanwhile may have removed the directory, whose lock then is worth nothing.
            Ok(lock) if lock.metadata()?.ino() == open()?.metadata()?.ino() => Ok(Self(lock)),
            Ok(_) => Self::take(directory),
            Err((file, Errno::EWOULDBLOCK)) => {
                let who = holder(&file).map_or_else(
                    || "another agent".to_owned(),
                    |pid| format!("another agent (process {pid})"),
                );
                bail!(
                    "{who} serves {}: stop it first, or set another `bpffs` and `socket`",
                    directory.display()
                );
            }
            Err((_, errno)) => {
                Err(errno).with_context(|| format!("cannot lock {}", directory.display()))
            }
        }
    }
}

/// The process that holds the lock of `file`, as `/proc/locks` tells.
fn holder(file: &File) -> Option<i32> {
    let inode = file.metadata().ok()?.ino();
    let locks = procfs::locks().ok()?;
    let lock = locks
        .into_iter()
        .find(|lock| lock.inode == inode && lock.lock_type == procfs::LockType::FLock)?;
    lock.pid
}
