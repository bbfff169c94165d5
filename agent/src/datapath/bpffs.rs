//! The BPF file system that holds the pins.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, Permissions},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

/// The mount source by which truepeer recognises a file system that it mounted itself.
const MOUNT_SOURCE: &str = "truepeer";
/// Where distributions mount bpffs.
const USUAL_PLACE: &str = "/sys/fs/bpf";

/// Makes sure that a directory below `root` would lie on bpffs: mounts one where there is none.
///
/// # Errors
///
/// When the mount point cannot be made, or the file system cannot be mounted.
pub(super) fn provide(root: &Path) -> Result<()> {
    let mount_point = if root.starts_with(USUAL_PLACE) {
        Path::new(USUAL_PLACE)
    } else {
        root
    };
    fs::create_dir_all(mount_point)
        .with_context(|| format!("cannot create {}", mount_point.display()))?;
    if statfs(mount_point).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    mount(
        Some(MOUNT_SOURCE),
        mount_point,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        // As systemd does; without it, every user may create directories there.
        Some("mode=0700"),
    )
    .with_context(|| {
        format!(
            "{0} is not on bpffs and cannot be mounted: type `mount -t bpf bpf {0}`, or set \
             `bpffs` to a directory on one",
            mount_point.display()
        )
    })
}

/// Makes `root`, on bpffs, and leaves it to this user alone: who may open a directory may also lock it, and so keep
/// an agent from starting.
///
/// # Errors
///
/// When the directory is another user's, who could move away what is pinned there.
pub(super) fn make_private(root: &Path) -> Result<()> {
    // Not a moment later: who has opened it by then keeps it open.
    let mut directory = DirBuilder::new();
    directory
        .recursive(true)
        .mode(0o700)
        .create(root)
        .with_context(|| format!("cannot create {}", root.display()))?;
    let owner = fs::metadata(root)?.uid();
    if owner != geteuid().as_raw() {
        bail!(
            "{} belongs to user {owner}: remove it, or set `bpffs` to another directory",
            root.display()
        );
    }
    // What others have pinned on the host is none of truepeer's business.
    if root != Path::new(USUAL_PLACE) {
        fs::set_permissions(root, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot protect {}", root.display()))?;
    }
    Ok(())
}

/// A bpffs that truepeer mounted.
pub(super) struct OwnMount {
    point: PathBuf,
}

impl OwnMount {
    /// The one that `root` lies on; `None` if somebody else mounted that.
    pub(super) fn of(root: &Path) -> Result<Option<Self>> {
        let mounts = procfs::process::Process::myself()?.mountinfo()?;
        let own = mounts.into_iter().find(|mount| {
            mount.mount_source.as_deref() == Some(MOUNT_SOURCE)
                && root.starts_with(&mount.mount_point)
        });
        Ok(own.map(|mount| Self {
            point: mount.mount_point,
        }))
    }

    /// Whether it is mounted at `path` itself.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.point == path
    }

    /// Unmounts it, unless other pins than truepeer's are left on it.
    pub(super) fn remove(&self) -> Result<()> {
        let kernels_own = |name: &OsStr| name == "maps.debug" || name == "progs.debug";
        let is_empty = fs::read_dir(&self.point)
            .is_ok_and(|entries| entries.flatten().all(|e| kernels_own(&e.file_name())));
        if !is_empty {
            return Ok(());
        }
        // Lazily, because the agent's lock still holds the directory.
        umount2(&self.point, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", self.point.display()))
    }
}
