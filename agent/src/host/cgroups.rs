//! The hierarchy of cgroup v2: where it is mounted, and which path an id stands for.

use std::{
    collections::HashMap,
    fs,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
};

use anyhow::{Context, Result, anyhow};
use nix::libc;

/// The cgroup v2 path of a process; empty when the process is gone or the host has no cgroup v2.
pub(super) fn of_process(pid: u32) -> String {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    // Hierarchy 0 is cgroup v2 (cgroups(7)).
    let v2 = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    v2.unwrap_or_default().to_owned()
}

/// Where cgroup v2 is mounted.
pub fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = procfs::process::Process::myself()
        .and_then(|process| process.mountinfo())
        .context("cannot read /proc/self/mountinfo")?;
    // Part of the hierarchy may be mounted elsewhere too: the mount of its root comes first.
    mounts
        .into_iter()
        .filter(|mount| mount.fs_type == "cgroup2")
        .min_by_key(|mount| mount.root != "/")
        .map(|mount| mount.mount_point)
        .ok_or_else(|| {
            anyhow!(
                "cgroup v2 is not mounted: boot with `systemd.unified_cgroup_hierarchy=1`, or run \
                 `mkdir -p /run/cgroup2 && mount -t cgroup2 cgroup2 /run/cgroup2`; \
                 in a container, mount the host's /sys/fs/cgroup"
            )
        })
}

/// The path of the cgroup with this id, from the root of what is mounted; `None` when it is gone.
pub fn cgroup_path(id: u64) -> Option<String> {
    let mount = cgroup2_mount().ok()?;
    let directory = open_cgroup(&fs::File::open(&mount).ok()?, id)?;
    let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()?;
    Some(format!("/{}", path.strip_prefix(&mount).ok()?.to_str()?))
}

/// Remembers paths of cgroups by their ids, which the kernel never reuses.
#[derive(Debug, Default)]
pub struct Cgroups(HashMap<u64, Option<String>>);

impl Cgroups {
    /// How many it remembers before it starts anew.
    const ROOM: usize = 1024;

    /// The path of the cgroup with this id; `None` when it was removed before the first look-up.
    pub fn path(&mut self, id: u64) -> Option<String> {
        if self.0.len() >= Self::ROOM {
            self.0.clear();
        }
        let path = self.0.entry(id);
        path.or_insert_with_key(|id| cgroup_path(*id)).clone()
    }

    /// Remembers the cgroup at this path from the root of the hierarchy, and says whether it exists.
    pub fn remember(&mut self, path: &str) -> bool {
        let found = cgroup2_mount().and_then(|mount| {
            let directory = mount.join(path.trim_start_matches('/'));
            Ok(fs::metadata(directory)?.ino())
        });
        if let Ok(id) = found {
            self.0.insert(id, Some(path.to_owned()));
        }
        found.is_ok()
    }
}

/// Opens the cgroup with this id on the cgroup2 file system that `mount` belongs to.
fn open_cgroup(mount: &fs::File, id: u64) -> Option<OwnedFd> {
    /// `struct file_handle` of kernfs (`FILEID_KERNFS`), whose handle is the id itself.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: [u8; 8],
    }
    let mut handle = Handle {
        bytes: 8,
        kind: 0xfe,
        id: id.to_ne_bytes(),
    };
    // SAFETY: the kernel reads the handle's header and the 8 bytes behind it, as many as the header says.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    // SAFETY: the call above opened the descriptor, and nothing else owns it.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_found_by_its_id() {
        let mount = cgroup2_mount().unwrap();
        let own = of_process(std::process::id());
        let below = own.trim_start_matches('/');
        let id = fs::metadata(mount.join(below)).unwrap().ino();
        // Without CAP_DAC_READ_SEARCH nothing is found.
        if nix::unistd::geteuid().is_root() {
            assert_eq!(cgroup_path(id), Some(own.clone()));
        }
        assert_eq!(cgroup_path(u64::MAX), None);
        let mut cgroups = Cgroups::default();
        assert!(cgroups.remember(&own) && !cgroups.remember("/no/such"));
        assert_eq!(cgroups.path(id), Some(own));
    }
}
