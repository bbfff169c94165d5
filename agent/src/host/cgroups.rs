//! The hierarchy of cgroup v2: where it is mounted, and which path an id stands for.

use std::{
    collections::HashMap,
    fmt, fs,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    libc,
    sched::{CloneFlags, setns},
    sys::statfs::{CGROUP2_SUPER_MAGIC, statfs},
};

/// The hierarchy as it is mounted here.
pub struct Hierarchy {
    mount: PathBuf,
    /// Names from the mount's root to the cgroup that `/proc` calls `/`: this process's cgroup namespace may begin below.
    /// Names that are unknown are `..`.
    base: Vec<String>,
}

impl Hierarchy {
    /// Finds the mount.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn find() -> Result<Self> {
        let mounts = procfs::process::Process::myself()
            .and_then(|process| process.mountinfo())
            .context("cannot read /proc/self/mountinfo")?;
        // Something else may be mounted over one: then its path leads elsewhere, or nowhere.
        let is_reached = |path: &Path| {
            statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
        };
        // Part of the hierarchy may be mounted elsewhere too: the mount of its root comes first.
        mounts
            .into_iter()
            .filter(|mount| mount.fs_type == "cgroup2" && is_reached(&mount.mount_point))
            .min_by_key(|mount| mount.root != "/")
            .map(|mount| Self {
                mount: mount.mount_point,
                base: base(mount.root.matches("/..").count()),
            })
            .ok_or_else(|| {
                anyhow!(
                    "cgroup v2 is not mounted: boot with `systemd.unified_cgroup_hierarchy=1`, or run \
                     `mkdir -p /run/cgroup2 && mount -t cgroup2 cgroup2 /run/cgroup2`; \
                     in a container, mount the host's /sys/fs/cgroup"
                )
            })
    }

    /// The path of the cgroup with this id, from the root of what is mounted; `None` when it is gone.
    fn path(&self, id: u64) -> Option<String> {
        let directory = open_cgroup(&fs::File::open(&self.mount).ok()?, id)?;
        let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()?;
        Some(format!(
            "/{}",
            path.strip_prefix(&self.mount).ok()?.to_str()?
        ))
    }

    /// The beginning of a path that only root can have named: the names in directories that are root's. Below one that is a
    /// user's, as when systemd delegates it, that user makes cgroups with any names.
    fn by_root<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> String {
        let mut directory = self.mount.clone();
        let mut by_root = String::new();
        for name in names {
            if name == ".." || !is_roots(&directory) {
                break;
            }
            directory.push(name);
            by_root.extend(["/", name]);
        }
        by_root
    }

    /// The names from the mount's root to a cgroup whose path `/proc` tells.
    fn resolve<'a>(&'a self, path: &'a str) -> Vec<&'a str> {
        let mut names: Vec<_> = self.base.iter().map(String::as_str).collect();
        for name in names_of(path) {
            if name != ".." || names.pop().is_none() {
                names.push(name);
            }
        }
        names
    }
}

fn names_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// The names down to the root of this process's cgroup namespace, which is `depth` levels below that of the host.
fn base(depth: usize) -> Vec<String> {
    let own = move || -> Result<Vec<String>> {
        setns(
            fs::File::open("/proc/1/ns/cgroup")?,
            CloneFlags::CLONE_NEWCGROUP,
        )?;
        let own = read("thread-self");
        Ok(names_of(&own).take(depth).map(str::to_owned).collect())
    };
    let own = (depth > 0).then(|| thread::spawn(own).join());
    let known = own.and_then(|own| own.ok()?.ok());
    let known = known.filter(|names| names.len() == depth);
    known.unwrap_or_else(|| vec!["..".into(); depth])
}

/// Whether nobody but root makes directories in this one.
fn is_roots(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|found| found.uid() == 0 && found.mode() & 0o022 == 0)
}

/// Where cgroup v2 is mounted.
pub fn cgroup2_mount() -> Result<PathBuf> {
    Ok(Hierarchy::find()?.mount)
}

/// The path of the cgroup with this id, from the root of what is mounted; `None` when it is gone.
pub fn cgroup_path(id: u64) -> Option<String> {
    Hierarchy::find().ok()?.path(id)
}

/// A cgroup's path, and how much of it only root can have named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupPath {
    path: String,
    by_root: String,
}

impl CgroupPath {
    /// That of a process; empty when the process is gone or the host has no cgroup v2.
    pub(super) fn of_process(pid: u32, hierarchy: Option<&Hierarchy>) -> Self {
        let path = read(&pid.to_string());
        let by_root = hierarchy.map(|hierarchy| hierarchy.by_root(hierarchy.resolve(&path)));
        Self {
            by_root: by_root.unwrap_or_default(),
            path,
        }
    }

    /// That of a path from the root of what is mounted.
    fn new(path: String, hierarchy: &Hierarchy) -> Self {
        Self {
            by_root: hierarchy.by_root(names_of(&path)),
            path,
        }
    }

    /// The beginning of it that only root can have named, from the root of what is mounted.
    pub fn by_root(&self) -> &str {
        &self.by_root
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// The path of a process's cgroup, as this thread sees it.
fn read(process: &str) -> String {
    let cgroups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    // Hierarchy 0 is cgroup v2 (cgroups(7)).
    let v2 = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    v2.unwrap_or_default().to_owned()
}

/// Remembers paths of cgroups by their ids, which the kernel never reuses.
#[derive(Debug, Default)]
pub struct Cgroups(HashMap<u64, Option<CgroupPath>>);

impl Cgroups {
    /// How many it remembers before it starts anew.
    const ROOM: usize = 1024;

    /// The path of the cgroup with this id; `None` when it was removed before the first look-up.
    pub fn path(&mut self, id: u64) -> Option<CgroupPath> {
        if self.0.len() >= Self::ROOM {
            self.0.clear();
        }
        let path = self.0.entry(id);
        let look_up = |id: &u64| {
            let hierarchy = Hierarchy::find().ok()?;
            Some(CgroupPath::new(hierarchy.path(*id)?, &hierarchy))
        };
        path.or_insert_with_key(look_up).clone()
    }

    /// Remembers the cgroup at this path from the root of the hierarchy, and says whether it exists.
    pub fn remember(&mut self, path: &str) -> bool {
        let found = Hierarchy::find().and_then(|hierarchy| {
            let directory = hierarchy.mount.join(path.trim_start_matches('/'));
            let path = CgroupPath::new(path.to_owned(), &hierarchy);
            Ok((fs::metadata(directory)?.ino(), path))
        });
        let is_found = found.is_ok();
        self.0.extend(found.ok().map(|(id, path)| (id, Some(path))));
        is_found
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
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn a_cgroup_is_found_by_its_id() {
        let mount = cgroup2_mount().unwrap();
        let own = read("self");
        let below = own.trim_start_matches('/');
        let id = fs::metadata(mount.join(below)).unwrap().ino();
        // Without CAP_DAC_READ_SEARCH nothing is found.
        if nix::unistd::geteuid().is_root() {
            assert_eq!(cgroup_path(id), Some(own.clone()));
        }
        assert_eq!(cgroup_path(u64::MAX), None);
        let mut cgroups = Cgroups::default();
        assert!(cgroups.remember(&own) && !cgroups.remember("/no/such"));
        assert_eq!(cgroups.path(id).map(|path| path.to_string()), Some(own));
    }

    #[test]
    fn names_below_a_directory_of_a_user_are_the_users() {
        let mount = tempfile::tempdir().unwrap();
        let deep = "/user.slice/user-1000.slice/user@1000.service/f3e7";
        let open = "/open.slice/f3e7";
        for path in [deep, open] {
            fs::create_dir_all(mount.path().join(&path[1..])).unwrap();
        }
        let mut hierarchy = Hierarchy {
            mount: mount.path().to_owned(),
            base: Vec::new(),
        };
        if !nix::unistd::geteuid().is_root() {
            // All of it is this user's.
            assert_eq!(hierarchy.by_root(names_of(deep)), "");
            return;
        }
        let service = mount
            .path()
            .join("user.slice/user-1000.slice/user@1000.service");
        chown(&service, Some(1000), None).unwrap();
        let anybodys = fs::Permissions::from_mode(0o777);
        fs::set_permissions(mount.path().join("open.slice"), anybodys).unwrap();
        let by_root = |path: &str| {
            let path = CgroupPath::new(path.to_owned(), &hierarchy);
            path.by_root().to_owned()
        };
        // Root itself named what it gave to the user.
        assert_eq!(
            by_root(deep),
            "/user.slice/user-1000.slice/user@1000.service"
        );
        assert_eq!(by_root(open), "/open.slice");
        assert_eq!(by_root("/user.slice"), "/user.slice");
        assert_eq!(by_root("/user.slice/gone/f3e7"), "/user.slice/gone");
        assert_eq!(by_root("/"), "");

        let mut seen_from = |base: &[&str], path: &str| {
            hierarchy.base = base.iter().map(|name| (*name).into()).collect();
            hierarchy.by_root(hierarchy.resolve(path))
        };
        let agent = ["user.slice", "user-0.slice"];
        assert_eq!(
            seen_from(&agent, "/../user-1000.slice"),
            "/user.slice/user-1000.slice"
        );
        assert_eq!(seen_from(&agent, "/../../open.slice/f3e7"), "/open.slice");
        assert_eq!(seen_from(&[".."; 2], "/../../user.slice"), "/user.slice");
        assert_eq!(seen_from(&[".."; 2], "/../user-1000.slice"), "");
        assert_eq!(seen_from(&[], "/../user.slice"), "");
    }
}
