//! Notifications when cgroups are made and removed.

use std::{
    os::fd::{AsFd as _, AsRawFd, RawFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// Tells when the cgroups at certain paths may have come or gone. The kernel has `inotify` events of the cgroup hierarchy for
/// all that processes make and remove there.
pub struct CgroupWatch {
    root: PathBuf,
    inotify: AsyncFd<Numbered>,
}

/// An `Inotify` by its number, as [`AsyncFd`] wants it.
struct Numbered(Inotify);

impl AsRawFd for Numbered {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl CgroupWatch {
    /// Watches nothing yet. `root` is where the hierarchy is mounted. The caller must be within the async runtime.
    pub fn new(root: &Path) -> Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        let inotify = inotify.context("cannot watch cgroups (inotify)")?;
        // SAFETY: it owns its descriptor, and the AsyncFd owns it until it is dropped.
        let inotify = unsafe { AsyncFd::register(Numbered(inotify)) }?;
        let root = root.to_owned();
        Ok(Self { root, inotify })
    }

    /// Watches the directories above the cgroups at these paths from the root of the hierarchy. What is watched already stays
    /// so; to be called again when something has changed, as a directory that is made again is another one.
    pub fn follow<'a>(&self, cgroups: impl IntoIterator<Item = &'a str>) {
        for cgroup in cgroups {
            let mut directory = self.root.clone();
            for name in Path::new(cgroup.trim_start_matches('/')).iter() {
                let flags = AddWatchFlags::IN_CREATE
                    | AddWatchFlags::IN_DELETE
                    | AddWatchFlags::IN_MOVED_TO
                    | AddWatchFlags::IN_ONLYDIR;
                // Of one that is not there, the directory above tells when it is made.
                if self
                    .inotify
                    .get_ref()
                    .0
                    .add_watch(&directory, flags)
                    .is_err()
                {
                    break;
                }
                directory.push(name);
            }
        }
    }

    /// Waits until a cgroup has come or gone below a directory that is watched.
    pub async fn changed(&self) {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else {
                return std::future::pending().await;
            };
            // An overflow of the queue is an event, too.
            let events = self.inotify.get_ref().0.read_events();
            match events {
                Ok(events) if !events.is_empty() => return,
                _ => ready.clear_ready(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_directory_that_is_made_again_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let watch = CgroupWatch::new(root.path()).unwrap();
        let service = root.path().join("system.slice/proxy.service");
        for _ in 0..2 {
            for directory in [service.parent().unwrap(), &service] {
                watch.follow(["/system.slice/proxy.service"]);
                fs::create_dir(directory).unwrap();
                timeout(Duration::from_secs(20), watch.changed())
                    .await
                    .unwrap();
            }
            fs::remove_dir_all(service.parent().unwrap()).unwrap();
            timeout(Duration::from_secs(20), watch.changed())
                .await
                .unwrap();
        }
    }
}
