//! Topologies, real proxies and servers as values that clean up after themselves.
//!
//! A scenario in `tests/*.rs` runs inside [`host::scenario`], which fails when anything is left on
//! the host afterwards. It lays out namespaces ([`topology`], [`cluster`]), starts servers ([`report`], [`uring`],
//! [`web`], [`sshd`], [`postgresql`]), proxies ([`envoy`], [`haproxy`], [`nginx`], [`proxy`], [`unprivileged`]), what
//! Istio and kube-proxy install ([`istio`], [`kube_proxy`], by [`iptables`]), PROXY headers ([`unwrap`]), TOA ([`toa`]) and
//! the agent ([`agent`]), and sends connections from many client addresses ([`load`]), or segment by segment ([`raw`]) or request
//! by request ([`http`]).

pub mod agent;
pub mod cgroup;
pub mod check;
pub mod cluster;
pub mod cni;
pub mod container;
pub mod envoy;
pub mod haproxy;
pub mod host;
pub mod http;
pub mod iptables;
pub mod istio;
pub mod kube_proxy;
pub mod listener;
pub mod load;
pub mod manifests;
pub mod netns;
pub mod nginx;
pub mod policy;
pub mod postgresql;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod relay;
pub mod report;
pub mod runtime;
pub mod sshd;
pub mod table;
pub mod toa;
pub mod topology;
pub mod unprivileged;
pub mod unwrap;
pub mod uring;
pub mod web;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Polls until `check` yields something; an error that says what did not happen after `limit`.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = check()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
