//! One line of the access log.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use agent_common::{Closed, Evidence, unwrap::Refusal};
use anyhow::Result;
use serde::Serialize;

use crate::{
    netns::Netns,
    peers::{Clock, Names},
    processes,
};

/// How often, at most, namespaces are looked up to name an unknown one.
const LOOK: Duration = Duration::from_secs(1);
/// How many cgroups are remembered.
const CGROUPS: usize = 1024;

/// Writes lines, and remembers what ids in them mean.
pub(super) struct Lines {
    names: Names,
    cgroups: HashMap<u64, Option<String>>,
    namespaces: Namespaces,
}

impl Lines {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            cgroups: HashMap::new(),
            namespaces: Namespaces::default(),
        }
    }

    /// The connection as JSON, with a newline.
    pub(super) fn line(&mut self, closed: &Closed) -> Result<Vec<u8>> {
        let time = Clock::read()?.wall(closed.closed);
        let time = humantime::format_rfc3339_millis(time).to_string();
        let mut json = match Refusal::from_u32(closed.refused) {
            Some(refusal) => serde_json::to_vec(&self.refused(refusal, closed, time)),
            None => serde_json::to_vec(&self.closed(closed, time)),
        }?;
        json.push(b'\n');
        Ok(json)
    }

    fn refused(&mut self, refusal: Refusal, closed: &Closed, time: String) -> Refused {
        let Closed { origin, .. } = closed;
        Refused {
            time,
            refused: refusal.name(),
            local: origin.local.socket_addr(),
            remote: origin.remote.socket_addr(),
            netns: self.namespaces.inode(origin.netns),
        }
    }

    fn closed(&mut self, closed: &Closed, time: String) -> Line {
        let Closed { origin, .. } = closed;
        let process = (origin.process.pid != 0).then_some(&origin.process);
        let comm = process.map(|process| {
            let name = process.comm.split(|&byte| byte == 0).next();
            String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
        });
        let duration = Duration::from_nanos(closed.closed.saturating_sub(origin.since));
        Line {
            time,
            client: origin.client.socket_addr(),
            original_dst: origin.original_dst.socket_addr(),
            local: origin.local.socket_addr(),
            remote: origin.remote.socket_addr(),
            evidence: Evidence::from_u8(origin.evidence).map(Evidence::name),
            trusted_by: self.names.trusted_by(origin.rule),
            pid: process.map(|process| process.pid),
            comm,
            uid: process.map(|process| process.uid),
            cgroup: process.and_then(|process| {
                if self.cgroups.len() >= CGROUPS {
                    self.cgroups.clear();
                }
                let known = self.cgroups.entry(process.cgroup);
                known
                    .or_insert_with_key(|id| processes::cgroup_path(*id))
                    .clone()
            }),
            netns: self.namespaces.inode(origin.netns),
            bytes_received: closed.received,
            bytes_sent: closed.sent,
            duration_seconds: duration.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct Line {
    time: String,
    client: SocketAddr,
    original_dst: SocketAddr,
    local: SocketAddr,
    remote: SocketAddr,
    evidence: Option<&'static str>,
    trusted_by: String,
    pid: Option<u32>,
    comm: Option<String>,
    uid: Option<u32>,
    cgroup: Option<String>,
    netns: Option<u64>,
    bytes_received: u64,
    bytes_sent: u64,
    duration_seconds: f64,
}

/// A connection that an unwrapping port refused: nothing is known of its client.
#[derive(Serialize)]
struct Refused {
    time: String,
    refused: &'static str,
    local: SocketAddr,
    remote: SocketAddr,
    netns: Option<u64>,
}

/// Inodes of network namespaces by their cookies, which are never reused.
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
