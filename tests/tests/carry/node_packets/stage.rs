//! A client that writes SYNs, and a node behind which they are read again.

use std::net::SocketAddr;
use std::path::Path;

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::{Agent, Carry, Config, Trust};
use tests::clients::raw::{LINUX, Raw};
use tests::cluster::kube_proxy::Mode;
use tests::cluster::nodes::{Cluster, Node, REPORT};
use tests::proxies::any;
use tests::servers::report::{Report, Seen};
use tests::topology::Family;

/// A hop that is trusted: the second load balancer of [`Family::balancer`].
pub(super) const TRUSTED: [&str; 2] = ["198.51.100.2/32", "2001:db8:1b::2/128"];

/// A client that writes SYNs, a node whose pod reports whom it sees, and what comes to the pod.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) client: Raw,
    pub(super) pod: Raw,
    pub(super) agent: Agent,
    pub(super) _report: Report,
    pub(super) sequence: u32,
    pub(super) port: u16,
}

impl Stage {
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let cluster = Cluster::new(directory, Mode::Iptables, 0)?;
        let node = &cluster.nodes[0];
        let mut config = Config::new(directory, [])?;
        config.trust.extend(Trust::saying(&["toa"], TRUSTED));
        config.carry = Some(Carry {
            node: vec![node.carries(Node::UPLINK)],
            ..Carry::default()
        });
        Ok(Self {
            client: Raw::new(&cluster.client)?,
            pod: Raw::new(&node.pod)?,
            agent: Agent::start(directory, config)?,
            _report: Report::start(&node.pod, any(REPORT.target))?,
            cluster,
            sequence: 0x1000,
            port: 20_000,
        })
    }

    pub(super) fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// An address, and a port that no other SYN came from.
    pub(super) fn source(&mut self, family: Family) -> SocketAddr {
        self.port += 1;
        (family.balancer(1), self.port).into()
    }

    /// Options and payload as the pod has them.
    pub(super) fn passed(
        &mut self,
        source: SocketAddr,
        options: &[u8],
        payload: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>)> {
        let family = Family::of(source);
        self.sequence += 0x10_0000;
        let sequence = self.sequence;
        let target = (self.node().address(family), REPORT.node_port).into();
        self.client
            .syn_with(source, target, sequence, options, payload)?;
        let endpoint = (self.node().pod_address(family), REPORT.target).into();
        self.pod.correct_syn(endpoint, sequence)
    }

    /// Whom the application sees.
    pub(super) fn seen(&mut self, source: SocketAddr, options: &[u8]) -> Result<SocketAddr> {
        self.sequence += 0x10_0000;
        let target = self.node().address(Family::of(source));
        let target = (target, REPORT.node_port).into();
        let mut connection = self
            .client
            .connect(source, target, self.sequence, options)?;
        let seen: Seen = serde_json::from_str(&connection.receive()?)?;
        connection.reset()?;
        Ok(seen.accepted)
    }
}

impl Stage {
    /// Fails unless so many SYNs were dropped so far, and a further one is answered.
    pub(super) fn hides(&mut self, number: u64) -> Result<()> {
        let source = self.source(Family::V4);
        ensure!(self.seen(source, &LINUX)? == source, "another SYN");
        let count = self.agent.counter(Counter::NodeHidden)?;
        ensure!(count == number, "{count} dropped, not {number}");
        Ok(())
    }

    /// Segments with a wrong checksum that came to the pod.
    pub(super) fn pod_errors(&self) -> Result<u64> {
        self.node().pod.counter("Tcp", "InCsumErrors")
    }
}
