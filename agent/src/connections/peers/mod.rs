//! Live connections with their origins, and the processes and workloads that hold them.

use std::{cmp::Reverse, net::SocketAddr, sync::Arc};

use agent_common::{Evidence, Origin};
use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{names::Names, origins::Origins, proxy_tlvs::ProxyTlvs};
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

/// Which connections a reader may see.
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

/// Every connection with an origin, the newest first.
pub fn all(
    origins: &dyn Origins,
    names: &Names,
    containers: &Containers,
    view: View,
) -> Result<Vec<Peer>> {
    let mut entries = origins.all()?;
    entries.sort_unstable_by_key(|(cookie, origin)| Reverse((origin.since, *cookie)));
    let owners = Owners::snapshot()?;
    containers.refresh();
    let clock = Clock::read()?;
    Ok(entries
        .iter()
        .filter(|(cookie, _)| view.shows(owners.get(*cookie)))
        .filter_map(|(cookie, origin)| {
            Peer::new(*cookie, origin, &owners, names, containers, &clock)
        })
        .collect())
}

/// The connection whose socket has this cookie, if it has an origin and `view` shows it.
pub fn one(
    origins: &dyn Origins,
    names: &Names,
    containers: &Containers,
    view: View,
    cookie: u64,
) -> Result<Option<Peer>> {
    let Some(origin) = origins.get(cookie)? else {
        return Ok(None);
    };
    let owners = Owners::snapshot()?;
    containers.refresh();
    if !view.shows(owners.get(cookie)) {
        return Ok(None);
    }
    Ok(Peer::new(
        cookie,
        &origin,
        &owners,
        names,
        containers,
        &Clock::read()?,
    ))
}

impl Peer {
    /// `None` for evidence that this version does not know: an unknown client is better than a wrong one.
    fn new(
        cookie: u64,
        origin: &Origin,
        owners: &Owners,
        names: &Names,
        containers: &Containers,
        clock: &Clock,
    ) -> Option<Self> {
        let evidence = Evidence::from_u8(origin.evidence)?;
        let owner = owners.get(cookie);
        Some(Self {
            cookie,
            protocol: "tcp".into(),
            client: origin.client.socket_addr(),
            original_dst: origin.original_dst.socket_addr(),
            local: origin.local.socket_addr(),
            remote: origin.remote.socket_addr(),
            evidence: evidence.name().into(),
            trusted_by: names.trusted_by(origin.rule),
            cgroup: owner
                .map(|owner| owner.cgroup.to_string())
                .filter(|path| !path.is_empty()),
            netns: owner
                .map(|owner| owner.netns)
                .or_else(|| owners.netns_inode(origin.netns)),
            pid: owner.map(|owner| owner.pid),
            comm: owner.map(|owner| owner.comm.clone()),
            workload: containers
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
