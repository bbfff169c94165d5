//! Which process a socket belongs to, and what namespace and cgroup ids mean.

use std::{
    collections::HashMap,
    fs,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use nix::libc;

use crate::host::{netns::Netns, sockets};

/// The process behind a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id. Of several processes that share the socket, the lowest.
    pub pid: u32,
    /// Its command name.
    pub comm: String,
    /// Its cgroup v2 path; empty where there is no cgroup v2.
    pub cgroup: String,
    /// The user that the socket belongs to.
    pub uid: u32,
    /// Inode of the socket's network namespace.
    pub netns: u64,
}

/// The owner of every connection that this process can see, at one moment.
#[derive(Debug, Default)]
pub struct Owners {
    /// By socket cookie.
    owners: HashMap<u64, Owner>,
    /// Inodes of network namespaces by their cookie.
    namespaces: HashMap<u64, u64>,
}

impl Owners {
    /// Asks the kernel for the connections of every namespace, and `/proc` for their processes.
    pub fn snapshot() -> Result<Self> {
        let mut snapshot = Self::default();
        let mut connections = Vec::new();
        for netns in Netns::all()? {
            snapshot.namespaces.insert(netns.cookie(), netns.inode());
            let found = sockets::connections(&netns)?;
            connections.extend(found.into_iter().map(|socket| (netns.inode(), socket)));
        }
        let processes = processes_by_socket()?;
        let mut names = HashMap::new();
        for (netns, socket) in connections {
            if let Some(&pid) = processes.get(&socket.inode) {
                let (comm, cgroup) = names.entry(pid).or_insert_with(|| (comm(pid), cgroup(pid)));
                let owner = Owner {
                    pid,
                    comm: comm.clone(),
                    cgroup: cgroup.clone(),
                    uid: socket.uid,
                    netns,
                };
                snapshot.owners.insert(socket.cookie, owner);
            }
        }
        Ok(snapshot)
    }

    /// The owner of the socket with this cookie; `None` also while no process has accepted it.
    pub fn get(&self, cookie: u64) -> Option<&Owner> {
        self.owners.get(&cookie)
    }

    /// The inode of the network namespace with this cookie.
    pub fn netns_inode(&self, cookie: u64) -> Option<u64> {
        self.namespaces.get(&cookie).copied()
    }
}

/// The lowest process id for each socket inode. Processes that end meanwhile are left out.
fn processes_by_socket() -> Result<HashMap<u32, u32>> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .context("cannot read /proc: mount it with `mount -t proc proc /proc`")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut processes = HashMap::new();
    for pid in pids {
        for fd in fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            // Reading the link is one system call, and never touches the file that it leads to.
            if let Some(inode) = fs::read_link(fd.path())
                .ok()
                .as_deref()
                .and_then(socket_inode)
            {
                processes.entry(inode).or_insert(pid);
            }
        }
    }
    Ok(processes)
}

/// The inode in `socket:[INODE]`.
fn socket_inode(link: &Path) -> Option<u32> {
    link.to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

fn comm(pid: u32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim_end().to_owned()
}

fn cgroup(pid: u32) -> String {
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
    // The whole hierarchy rather than a part of it that is mounted as well.
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

/// The path of the cgroup with this id, below the mount of cgroup v2; `None` when it is gone.
pub fn cgroup_path(id: u64) -> Option<String> {
    let mount = cgroup2_mount().ok()?;
    let directory = open_cgroup(&fs::File::open(&mount).ok()?, id)?;
    let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()?;
    Some(format!("/{}", path.strip_prefix(&mount).ok()?.to_str()?))
}

/// Paths of cgroups by their ids, which are never reused.
#[derive(Debug, Default)]
pub struct Cgroups(HashMap<u64, Option<String>>);

impl Cgroups {
    /// How many are remembered.
    const ROOM: usize = 1024;

    /// The path of the cgroup with this id; `None` when it was gone before anybody asked.
    pub fn path(&mut self, id: u64) -> Option<String> {
        if self.0.len() >= Self::ROOM {
            self.0.clear();
        }
        let path = self.0.entry(id);
        path.or_insert_with_key(|id| cgroup_path(*id)).clone()
    }

    /// Remembers the cgroup at this path, below the root; whether it is there.
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

/// Opens the cgroup with this id on the cgroup2 file system that `mount` lies on.
fn open_cgroup(mount: &fs::File, id: u64) -> Option<OwnedFd> {
    /// `struct file_handle` with a handle of kernfs (`FILEID_KERNFS`): the id itself.
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
    // SAFETY: the kernel reads the handle's header and, as that says, the 8 bytes after it.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    // SAFETY: a descriptor that is not negative was opened just now and belongs to nobody else.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        process,
    };

    use super::*;

    #[test]
    fn the_owner_of_a_connection_is_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let netns = Netns::current().unwrap();
        let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let cookie = sockets::cookie(&netns, ends.0, ends.1).unwrap().unwrap();

        let owners = Owners::snapshot().unwrap();
        let owner = owners.get(cookie).unwrap();
        assert_eq!((owner.pid, owner.netns), (process::id(), netns.inode()));
        assert_eq!(owner.uid, nix::unistd::geteuid().as_raw());
        assert!(!owner.comm.is_empty());
        assert_eq!(owners.netns_inode(netns.cookie()), Some(netns.inode()));
        // Nobody has accepted the other end yet.
        let other = sockets::cookie(&netns, ends.1, ends.0).unwrap().unwrap();
        assert_eq!(owners.get(other), None);
    }

    #[test]
    fn only_sockets_have_a_socket_inode() {
        assert_eq!(socket_inode(Path::new("socket:[4242]")), Some(4242));
        assert_eq!(socket_inode(Path::new("pipe:[4242]")), None);
    }

    #[test]
    fn a_cgroup_is_found_by_its_id() {
        let Ok(mount) = cgroup2_mount() else { return };
        let own = cgroup(process::id());
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
