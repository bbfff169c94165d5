//! Counts of connections by pod and container, as metrics.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

use crate::workloads::workload::Workload;

/// How many pods and containers are counted at the same time. A node has a few hundred.
const COUNTED: usize = 2048;

/// Counts of the workloads that run or are still remembered.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies(HashMap<Arc<Workload>, Tally>);

/// The number of connections that have ended, and of those that were refused.
type Tally = [u64; 2];

impl Tallies {
    pub(super) fn count(&mut self, workload: &Arc<Workload>, is_refused: bool) {
        if self.0.len() >= COUNTED && !self.0.contains_key(workload) {
            return;
        }
        let tally = self.0.entry(workload.clone()).or_default();
        tally[usize::from(is_refused)] += 1;
    }

    /// Forgets the counts of all workloads but these.
    pub(super) fn retain(&mut self, live: impl Iterator<Item = Arc<Workload>>) {
        let live: HashSet<_> = live.collect();
        self.0.retain(|workload, _| live.contains(workload));
    }

    /// Writes the metrics, all samples of one together.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = [
            (
                "pod_connections",
                "Connections with an origin that have ended, by pod and container",
            ),
            (
                "pod_refused_connections",
                "Connections that were refused, by pod and container",
            ),
        ];
        for (which, (name, help)) in metrics.into_iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (workload, tally) in &self.0 {
                let counter = ConstCounter::new(tally[which]);
                counter.encode(family.encode_family(&**workload)?)?;
            }
        }
        Ok(())
    }
}
