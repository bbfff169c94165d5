//! What all connections of one relay share.

use std::sync::Arc;

use super::{balance::Balancer, metrics::RelayMetrics, pipes::Pipes};
use crate::{
    config::{Relay, TrustedSenders},
    connections::{origins::Claims, summary::SummarySender, tlv_store::TlvStore},
};

/// What all connections of one relay share. A configuration that is other for the relay makes a new one.
pub(super) struct Service {
    pub(super) relay: Relay,
    /// What output and rules call the relay.
    pub(super) name: String,
    /// Whose PROXY headers and requests are believed.
    pub(super) senders: Arc<TrustedSenders>,
    pub(super) balancer: Balancer,
    pub(super) claims: Arc<dyn Claims>,
    pub(super) metrics: RelayMetrics,
    pub(super) tlvs: Arc<TlvStore>,
    pub(super) summaries: SummarySender,
    pub(super) pipes: Pipes,
    /// Whether a client is refused whom the upstream cannot be told.
    pub(super) refuses: bool,
}

impl Service {
    /// Whether connections are served alike by both.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.relay == other.relay && self.senders == other.senders && self.refuses == other.refuses
    }
}
