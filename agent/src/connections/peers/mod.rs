//! Live connections with their origins, and the processes and workloads that hold them.

use std::{cmp::Reverse, collections::HashMap, net::SocketAddr, sync::Arc};

use agent_common::{Evidence, Origin};
use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{names::Names, proxy_tlvs::ProxyTlvs};
use crate::{
    host::{
        clock::Clock,
        processes::{Owner, Owners},
    },
    workloads::{Workload, containers::Containers},
};

/// A live connection with its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The socket's cookie.
    pub cookie: u64,
    /// Always `tcp`.
    pub protocol: String,
    /// The client's address and port before any hop changed them.
    pub client: SocketAddr,
    /// The destination that the client connected to.
    pub original_dst: SocketAddr,
    /// The socket's own end, as on the wire.
    pub local: SocketAddr,
    /// The socket's other end, as on the wire.
    pub remote: SocketAddr,
    /// The evidence for the origin ([`Evidence::name`]).
    pub evidence: String,
    /// Name of the rule by which the evidence is trusted.
    pub trusted_by: String,
    /// cgroup v2 path of the process.
    pub cgroup: Option<String>,
    /// Inode of the socket's network namespace.
    pub netns: Option<u64>,
    /// Process id; `None` before a process accepts the connection.
    pub pid: Option<u32>,
    /// Command name of the process.
    pub comm: Option<String>,
    /// Pod and container, where they are known.
    #[serde(flatten)]
    pub workload: Option<Workload>,
    /// When the data path learnt the origin (RFC 3339).
    pub since: String,
    /// Number of its PROXY header; 0 unless the header has TLVs.
    #[serde(skip)]
    pub header: u64,
    /// The TLVs of its PROXY header, which only the agent knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyTlvs>,
}

/// Which connections somebody may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Those of all users.
    All,
    /// Those of one user.
    Of(u32),
}

impl View {
    /// The connections that the user with this id may see.
    pub fn of(uid: u32) -> Self {
        if uid == 0 { Self::All } else { Self::Of(uid) }
    }

    fn shows(self, owner: Option<&Owner>) -> bool {
        match self {
            Self::All => true,
            Self::Of(uid) => owner.is_some_and(|owner| owner.uid == uid),
        }
    }
}

/// Whoever looks at connections, and what tells of their processes and workloads.
#[derive(Clone, Copy)]
pub struct Viewer<'a> {
    /// The names of the configuration's rules.
    pub names: &'a Names,
    /// Pods and containers.
    pub containers: &'a Containers,
    /// The processes, as they were after the origins had been read.
    pub owners: &'a Owners,
    /// Which connections are shown.
    pub view: View,
}

impl Viewer<'_> {
    /// Those of these connections that are shown, the newest first.
    pub fn all(&self, origins: &HashMap<u64, Origin>) -> Result<Vec<Peer>> {
        self.containers.refresh();
        let clock = Clock::read()?;
        let mut shown: Vec<(&u64, &Origin)> = match self.view {
            View::All => origins.iter().collect(),
            View::Of(uid) => {
                let cookies = self.owners.of_user(uid);
                let known = cookies.filter_map(|cookie| origins.get_key_value(&cookie));
                known.collect()
            }
        };
        shown.sort_unstable_by_key(|(cookie, origin)| Reverse((origin.since, **cookie)));
        let peers = shown.into_iter();
        Ok(peers
            .filter_map(|(cookie, origin)| self.peer(*cookie, origin, &clock))
            .collect())
    }

    /// The connection whose socket has this cookie, and this origin, if it is shown.
    pub fn one(&self, cookie: u64, origin: &Origin) -> Result<Option<Peer>> {
        self.containers.refresh();
        if !self.view.shows(self.owners.get(cookie)) {
            return Ok(None);
        }
        Ok(self.peer(cookie, origin, &Clock::read()?))
    }

    /// `None` for evidence that this version does not know: an unknown client is better than a wrong one.
    fn peer(&self, cookie: u64, origin: &Origin, clock: &Clock) -> Option<Peer> {
        let evidence = Evidence::from_u8(origin.evidence)?;
        let owner = self.owners.get(cookie);
        Some(Peer {
            cookie,
            protocol: "tcp".into(),
            client: origin.client.socket_addr(),
            original_dst: origin.original_dst.socket_addr(),
            local: origin.local.socket_addr(),
            remote: origin.remote.socket_addr(),
            evidence: evidence.name().into(),
            trusted_by: self.names.trusted_by(origin.rule),
            cgroup: owner
                .map(|owner| owner.cgroup.to_string())
                .filter(|path| !path.is_empty()),
            netns: owner
                .map(|owner| owner.netns)
                .or_else(|| self.owners.netns_inode(origin.netns)),
            pid: owner.map(|owner| owner.pid),
            comm: owner.map(|owner| owner.comm.clone()),
            workload: self
                .containers
                .find(origin.netns, owner.map(|owner| owner.cgroup.by_root()))
                .map(Arc::unwrap_or_clone),
            since: humantime::format_rfc3339_seconds(clock.wall(origin.since)).to_string(),
            header: origin.header,
            proxy: None,
        })
    }
}

#[cfg(test)]
mod tests;
