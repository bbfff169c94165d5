//! A pod that believes a signer.

use std::net::SocketAddr;
use std::path::Path;

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::{Agent, Config, Trust};
use tests::clients::raw::{Connection, Raw};
use tests::proxies::any;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};

use crate::stage::{APPLICATION, BALANCERS, KeyFile, accepted};

/// Load balancers sign.
pub(super) fn config(directory: &Path, keys: &KeyFile) -> Result<Config> {
    let mut config = Config::new(directory, [])?;
    config.trust.extend(Trust::signers(BALANCERS));
    config.toa.keys = Some(keys.path().to_owned());
    Ok(config)
}

pub(super) fn client(family: Family) -> SocketAddr {
    (family.client(76), 4711).into()
}

/// A pod, and load balancers whose segments are written one by one.
pub(super) struct Stage {
    pub(super) topology: Sidecar,
    pub(super) raw: Raw,
    pub(super) _report: Report,
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        let topology = Sidecar::new()?;
        Ok(Self {
            raw: Raw::new(&topology.client)?,
            _report: Report::start(&topology.pod, any(APPLICATION))?,
            topology,
        })
    }

    pub(super) fn connect(
        &self,
        source: SocketAddr,
        isn: u32,
        options: &[u8],
    ) -> Result<Connection<'_>> {
        let target = (Sidecar::address(Family::of(source)), APPLICATION);
        self.raw.connect(source, target.into(), isn, options)
    }

    /// Connects with a SYN that has these options; returns whom the application sees.
    pub(super) fn seen(&self, source: SocketAddr, isn: u32, options: &[u8]) -> Result<SocketAddr> {
        let mut connection = self.connect(source, isn, options)?;
        let seen = accepted(&mut connection)?;
        connection.reset()?;
        Ok(seen)
    }

    /// Asserts that the application sees the sender of a SYN with these options, and that the agent counts the reason.
    pub(super) fn refused(
        &self,
        agent: &Agent,
        reason: Counter,
        source: SocketAddr,
        isn: u32,
        options: &[u8],
    ) -> Result<()> {
        let before = agent.counter(reason)?;
        let seen = self.seen(source, isn, options)?;
        ensure!(seen == source, "{source} was seen as {seen}");
        let counted = agent.counter(reason)? - before;
        ensure!(counted == 1, "{}: {counted}", reason.name());
        Ok(())
    }

    pub(super) fn cookies(&self, value: &str) -> Result<()> {
        let key = "net/ipv4/tcp_syncookies";
        self.topology.pod.set_sysctl(key, value)
    }
}

pub(super) fn source(family: Family, port: u16) -> SocketAddr {
    (family.balancer(1), port).into()
}
