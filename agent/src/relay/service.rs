//! What all connections of one relay share.

use std::{net::SocketAddr, sync::Arc};

use ipnet::IpNet;

use super::{balance::Balancer, metrics::RelayMetrics, pipes::Pipes};
use crate::{
    config::{Relay, Trust},
    connections::{origins::Claims, summary::SummarySender, tlv_store::TlvStore},
};

/// What all connections of one relay share. A reload of the configuration makes a new one.
pub(super) struct Service {
    pub(super) relay: Relay,
    /// What output and rules call the relay.
    pub(super) name: String,
    /// Prefixes of the senders whose PROXY headers are believed.
    pub(super) sources: Vec<IpNet>,
    pub(super) balancer: Balancer,
    pub(super) claims: Arc<dyn Claims>,
    pub(super) metrics: RelayMetrics,
    pub(super) tlvs: Arc<TlvStore>,
    pub(super) summaries: SummarySender,
    pub(super) pipes: Pipes,
}

impl Service {
    /// Name of the rule that believes this sender's PROXY header: the longest prefix that contains it.
    pub(super) fn trusting_rule(&self, sender: SocketAddr) -> Option<String> {
        let ip = sender.ip().to_canonical();
        let prefixes = self.sources.iter().filter(|prefix| prefix.contains(&ip));
        let longest = prefixes.max_by_key(|prefix| prefix.prefix_len())?;
        Some(Trust::source_rule(longest))
    }
}
