//! One line of the access log.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use agent_common::{Closed, Evidence, Origin};
use anyhow::Result;
use serde::Serialize;

use crate::{
    connections::{
        names::Names,
        proxy_tlvs::ProxyTlvs,
        summary::{HttpRequest, Summary},
    },
    host::{cgroups::Cgroups, clock::Clock, netns::Netns},
    workloads::Workload,
};

/// How long to wait between two look-ups of all namespaces for an unknown one.
const LOOK: Duration = Duration::from_secs(1);

/// Formats lines, and remembers what the ids in records stand for.
pub(super) struct Lines {
    names: Names,
    cgroups: Cgroups,
    namespaces: Namespaces,
}

impl Lines {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            cgroups: Cgroups::default(),
            namespaces: Namespaces::default(),
        }
    }

    /// A line of JSON, with its newline.
    pub(super) fn line(&mut self, summary: &Summary) -> Result<Vec<u8>> {
        let Closed { origin, closed, .. } = &summary.closed;
        let time = Clock::read()?.wall(*closed);
        let line = Line {
            time: humantime::format_rfc3339_millis(time).to_string(),
            refused: summary.refused,
            policy: self.names.policy(summary.closed.policy),
            origin: self.known(origin),
            local: origin.local.socket_addr(),
            remote: origin.remote.socket_addr(),
            netns: self.namespaces.inode(origin.netns),
            workload: summary.workload.as_deref(),
            proxy: summary.tlvs.as_deref(),
            request: summary.request.as_ref(),
            served: summary
                .refused
                .is_none()
                .then(|| self.served(&summary.closed)),
        };
        let mut json = serde_json::to_vec(&line)?;
        json.push(b'\n');
        Ok(json)
    }

    /// The client; `None` where a connection was refused before its client was known.
    fn known(&self, origin: &Origin) -> Option<Known> {
        Some(Known {
            evidence: Evidence::from_u8(origin.evidence)?.name(),
            client: origin.client.socket_addr(),
            original_dst: origin.original_dst.socket_addr(),
            trusted_by: (origin.rule != 0).then(|| self.names.trusted_by(origin.rule)),
        })
    }

    /// What a connection that was not refused has besides.
    fn served(&mut self, closed: &Closed) -> Served {
        let Closed { origin, .. } = closed;
        let process = (origin.process.pid != 0).then_some(&origin.process);
        let comm = process.map(|process| {
            let name = process.comm.split(|&byte| byte == 0).next();
            String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
        });
        let duration = Duration::from_nanos(closed.closed.saturating_sub(origin.since));
        Served {
            pid: process.map(|process| process.pid),
            comm,
            uid: process.map(|process| process.uid),
            cgroup: process
                .and_then(|process| self.cgroups.path(process.cgroup))
                .map(|path| path.to_string()),
            bytes_received: closed.received,
            bytes_sent: closed.sent,
            duration_seconds: duration.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(flatten)]
    origin: Option<Known>,
    local: SocketAddr,
    remote: SocketAddr,
    netns: Option<u64>,
    #[serde(flatten)]
    workload: Option<&'a Workload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<&'a ProxyTlvs>,
    #[serde(flatten)]
    request: Option<&'a HttpRequest>,
    #[serde(flatten)]
    served: Option<Served>,
}

/// The fields of a line whose client is known.
#[derive(Serialize)]
struct Known {
    client: SocketAddr,
    original_dst: SocketAddr,
    evidence: &'static str,
    /// Nobody need be trusted for the packet's source, by which a policy judges whoever comes directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_by: Option<String>,
}

/// The fields of a connection that was not refused.
#[derive(Serialize)]
struct Served {
    pid: Option<u32>,
    comm: Option<String>,
    uid: Option<u32>,
    cgroup: Option<String>,
    bytes_received: u64,
    bytes_sent: u64,
    duration_seconds: f64,
}

/// Inodes of network namespaces by their cookies, which the kernel never reuses.
#[derive(Default)]
struct Namespaces {
    inodes: HashMap<u64, u64>,
    looked: Option<Instant>,
}

impl Namespaces {
    fn inode(&mut self, cookie: u64) -> Option<u64> {
        let is_due = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK);
        if !self.inodes.contains_key(&cookie) && is_due {
            self.looked = Some(Instant::now());
            let all = Netns::all().unwrap_or_default();
            self.inodes = all.iter().map(|n| (n.cookie(), n.inode())).collect();
        }
        self.inodes.get(&cookie).copied()
    }
}
