//! Who of several watchers of one directory acts: the latest, as when one pod of a DaemonSet follows another.

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result};
use nix::{
    fcntl::{FcntlArg, fcntl},
    libc::{self, F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, c_int},
};

use crate::host::clock;

/// A watcher's place among those of its directory: a shared lock on the one byte of the directory that is the moment of its
/// start. The kernel lets go of it with the process, so that whoever was before comes to be the latest again.
pub(super) struct Turn {
    directory: File,
    /// Nanoseconds since boot.
    since: i64,
}

impl Turn {
    /// Comes after all watchers that are there.
    ///
    /// # Errors
    ///
    /// When the directory cannot be opened, or has no locks, as on some network file systems.
    pub(super) fn take(directory: &Path) -> Result<Self> {
        let context = || format!("cannot lock {}", directory.display());
        let file = File::open(directory).with_context(context)?;
        let since = i64::try_from(clock::now()).with_context(context)?;
        let own = FcntlArg::F_OFD_SETLK(&lock(F_RDLCK, since, 1));
        fcntl(&file, own).with_context(context)?;
        Ok(Self {
            directory: file,
            since,
        })
    }

    /// Whether no watcher has come since that is still there.
    pub(super) fn is_latest(&self) -> bool {
        // No end: whoever locks a byte behind this one's is in its way.
        let mut later = lock(F_WRLCK, self.since + 1, 0);
        let asked = fcntl(&self.directory, FcntlArg::F_OFD_GETLK(&mut later));
        asked.is_err() || c_int::from(later.l_type) == F_UNLCK
    }
}

/// A lock of this kind on so many bytes from `start` on; 0: on all of them.
fn lock(kind: c_int, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_those_who_are_there_has_its_turn() {
        let directory = tempfile::tempdir().unwrap();
        let take = || Turn::take(directory.path()).unwrap();
        let first = take();
        assert!(first.is_latest());
        let (second, third) = (take(), take());
        let turns = |turns: [&Turn; 2]| turns.map(Turn::is_latest);
        assert_eq!(turns([&first, &second]), [false, false]);
        assert!(third.is_latest());
        drop(second);
        assert!(!first.is_latest());
        drop(third);
        assert!(first.is_latest());
        let elsewhere = tempfile::tempdir().unwrap();
        let _other = Turn::take(elsewhere.path()).unwrap();
        assert!(first.is_latest());
    }
}
