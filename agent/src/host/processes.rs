//! Which process holds a socket.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs,
    os::fd::{AsFd, OwnedFd, RawFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    net::sockopt::socket_acceptconn,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{
    cgroups::{CgroupPath, Hierarchy},
    netns::Netns,
    proc, sockets,
};

/// The process behind a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id: the lowest, if several processes share the socket.
    pub pid: u32,
    /// Its command name.
    pub comm: String,
    /// Its cgroup v2 path; empty where there is no cgroup v2.
    pub cgroup: CgroupPath,
    /// The user id that owns the socket.
    pub uid: u32,
    /// Inode of the socket's network namespace.
    pub netns: u64,
}

/// A snapshot: the owner of every connection that this process can see.
#[derive(Debug, Default)]
pub struct Owners {
    /// Owners by the cookies of their sockets.
    owners: HashMap<u64, Owner>,
    /// Inodes of network namespaces by their cookies.
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
        let hierarchy = Hierarchy::find().ok();
        let mut names = HashMap::new();
        for (netns, socket) in connections {
            if let Some(&pid) = processes.get(&socket.inode) {
                let (comm, cgroup) = names.entry(pid).or_insert_with(|| {
                    (comm(pid), CgroupPath::of_process(pid, hierarchy.as_ref()))
                });
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

    /// The owner of the socket with this cookie; `None` while no process has accepted it.
    pub fn get(&self, cookie: u64) -> Option<&Owner> {
        self.owners.get(&cookie)
    }

    /// The cookies of the sockets that the user with this id owns.
    pub fn of_user(&self, uid: u32) -> impl Iterator<Item = u64> {
        let owners = self.owners.iter();
        owners.filter_map(move |(cookie, owner)| (owner.uid == uid).then_some(*cookie))
    }

    /// The inode of the network namespace with this cookie.
    pub fn netns_inode(&self, cookie: u64) -> Option<u64> {
        self.namespaces.get(&cookie).copied()
    }
}

/// The lowest process id for each socket inode. It leaves out processes that end meanwhile.
fn processes_by_socket() -> Result<HashMap<u32, u32>> {
    let mut processes = HashMap::new();
    each_socket(|pid, _, inode| {
        processes.entry(inode).or_insert(pid);
    })?;
    Ok(processes)
}

/// Duplicates of the sockets with these inodes, each from a process that holds it (`pidfd_getfd()`, Linux 5.6). Those
/// that no process holds any more are missing, and those that this process may not have: it needs CAP_SYS_PTRACE.
pub fn duplicate_sockets(inodes: &HashSet<u32>) -> Result<HashMap<u32, OwnedFd>> {
    let mut sockets = HashMap::new();
    each_socket(|pid, fd, inode| {
        if inodes.contains(&inode)
            && let Entry::Vacant(missing) = sockets.entry(inode)
            && let Some(socket) = duplicate(pid, fd)
        {
            missing.insert(socket);
        }
    })?;
    Ok(sockets)
}

/// Copies of the listening sockets of a process, by a handle of it and its id (`pidfd_getfd()`, Linux 5.6).
///
/// # Errors
///
/// When this process may not have them: it needs CAP_SYS_PTRACE.
pub fn listeners_of(process: impl AsFd, pid: i32) -> Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    for file in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let link = fs::read_link(file.path()).ok();
        let fd = file.file_name().to_str().and_then(|fd| fd.parse().ok());
        if let Some(fd) = fd
            && link.as_deref().and_then(socket_inode).is_some()
        {
            match pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()) {
                Ok(socket) if socket_acceptconn(&socket).unwrap_or_default() => {
                    sockets.push(socket)
                }
                Ok(_) => {}
                // It was closed meanwhile.
                Err(Errno::BADF) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(sockets)
}

/// Whether the process with this id is in the mount namespace of this one, as processes of one container are.
///
/// # Errors
///
/// When it has ended, or this process may not know.
pub fn shares_mounts(pid: i32) -> Result<bool> {
    let namespace = |process: &str| {
        let path = format!("/proc/{process}/ns/mnt");
        fs::read_link(&path).with_context(|| format!("cannot read {path}"))
    };
    Ok(namespace(&pid.to_string())? == namespace("self")?)
}

fn duplicate(pid: u32, fd: RawFd) -> Option<OwnedFd> {
    let pid = Pid::from_raw(pid.try_into().ok()?)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).ok()
}

/// Calls `visit` with process id, file descriptor and inode for every socket of every process, in the order of the ids.
fn each_socket(mut visit: impl FnMut(u32, RawFd, u32)) -> Result<()> {
    let mut pids: Vec<u32> = proc::pids()?.collect();
    pids.sort_unstable();
    for pid in pids {
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        for file in files.into_iter().flatten().flatten() {
            // One system call, which never touches the file behind the link.
            let link = fs::read_link(file.path()).ok();
            let inode = link.as_deref().and_then(socket_inode);
            let fd = file.file_name().to_str().and_then(|fd| fd.parse().ok());
            if let (Some(inode), Some(fd)) = (inode, fd) {
                visit(pid, fd, inode);
            }
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
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
    fn a_process_shares_its_own_mounts() {
        assert!(shares_mounts(process::id() as i32).unwrap());
        assert!(shares_mounts(i32::MAX).is_err());
    }

    #[test]
    fn only_sockets_have_a_socket_inode() {
        assert_eq!(socket_inode(Path::new("socket:[4242]")), Some(4242));
        assert_eq!(socket_inode(Path::new("pipe:[4242]")), None);
    }

    #[test]
    fn a_socket_is_duplicated() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = fs::metadata(format!("/proc/self/fd/{}", listener.as_raw_fd()));
        let inode = inode.unwrap().ino() as u32;
        let mut sockets = duplicate_sockets(&[inode, u32::MAX].into()).unwrap();
        let duplicate = TcpListener::from(sockets.remove(&inode).unwrap());
        assert_eq!(
            duplicate.local_addr().unwrap(),
            listener.local_addr().unwrap()
        );
        assert!(sockets.is_empty());
    }
}
