//! Which process holds a socket.

use std::{collections::HashMap, fs, path::Path};

use anyhow::Result;

use super::{cgroups, netns::Netns, proc, sockets};

/// The process behind a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id: the lowest, if several processes share the socket.
    pub pid: u32,
    /// Its command name.
    pub comm: String,
    /// Its cgroup v2 path; empty where there is no cgroup v2.
    pub cgroup: String,
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
        let mut names = HashMap::new();
        for (netns, socket) in connections {
            if let Some(&pid) = processes.get(&socket.inode) {
                let (comm, cgroup) = names
                    .entry(pid)
                    .or_insert_with(|| (comm(pid), cgroups::of_process(pid)));
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

    /// The inode of the network namespace with this cookie.
    pub fn netns_inode(&self, cookie: u64) -> Option<u64> {
        self.namespaces.get(&cookie).copied()
    }
}

/// The lowest process id for each socket inode. It leaves out processes that end meanwhile.
fn processes_by_socket() -> Result<HashMap<u32, u32>> {
    let mut pids: Vec<u32> = proc::pids()?.collect();
    pids.sort_unstable();
    let mut processes = HashMap::new();
    for pid in pids {
        for fd in fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            // One system call, which never touches the file behind the link.
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
}
