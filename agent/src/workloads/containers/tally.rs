//! How many connections pods and containers had, as metrics.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

use super::{Containers, Workload};

/// How many pods and containers are counted at a time. A node has a few hundred.
const COUNTED: usize = 2048;

/// Counts of those that run, and of those that are remembered.
#[derive(Debug, Default)]
pub(super) struct Tallies(HashMap<Arc<Workload>, Tally>);

/// Connections that ended, and those that were refused.
type Tally = [u64; 2];

impl Tallies {
    pub(super) fn count(&mut self, workload: &Arc<Workload>, is_refused: bool) {
        if self.0.len() >= COUNTED && !self.0.contains_key(workload) {
            return;
        }
        let tally = self.0.entry(workload.clone()).or_default();
        tally[usize::from(is_refused)] += 1;
    }

    /// Forgets all others.
    pub(super) fn retain(&mut self, live: impl Iterator<Item = Arc<Workload>>) {
        let live: HashSet<_> = live.collect();
        self.0.retain(|workload, _| live.contains(workload));
    }
}

impl Collector for Containers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A metric's samples stand together.
        let tallies = self.lock().tallies.0.clone();
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
            for (workload, tally) in &tallies {
                let counter = ConstCounter::new(tally[which]);
                counter.encode(family.encode_family(&**workload)?)?;
            }
        }
        Ok(())
    }
}
