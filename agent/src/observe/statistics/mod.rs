//! Statistics of connections: their number by the client's prefix, their duration and their size.
//!
//! They use a bounded amount of memory, however many clients there are. Frequent-items sketches count by prefix (Misra
//! and Gries, with the purge of Anderson et al., 2017). They are exact for up to [`SIZE`] × 3/4 prefixes. Beyond that,
//! each count is too low by at most 3.5 / [`SIZE`] of the sum of all counts, which is less than 0.1 %.

mod ranking;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use agent_common::{Evidence, Origin};
use anyhow::Result;
use datasketches::frequencies::{ErrorType, FrequentItemsSketch};
use ipnet::IpNet;
use prometheus_client::{
    metrics::{
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

pub use self::ranking::{By, Counts, Prefix, Top};
use crate::{
    config::PrefixLengths,
    connections::{origins::Origins, summary::Summary},
    host::{
        netns::Netns,
        sockets::{self, Traffic},
    },
};

/// The largest number of slots of a sketch, which take less than 200 KiB.
const SIZE: usize = 4096;

type Sketch = FrequentItemsSketch<IpNet>;
type Labels = [(&'static str, &'static str); 1];

/// The statistics of an agent.
pub struct Statistics {
    lengths: PrefixLengths,
    since: SystemTime,
    sketches: Mutex<Sketches>,
    /// Durations by evidence.
    duration: Family<Labels, Histogram, fn() -> Histogram>,
    received: Histogram,
    sent: Histogram,
}

struct Sketches {
    connections: Sketch,
    bytes_received: Sketch,
    bytes_sent: Sketch,
    refused: Sketch,
}

impl Default for Statistics {
    fn default() -> Self {
        Self::new(PrefixLengths::default())
    }
}

impl Statistics {
    /// Starts all counts at zero, with clients counted by prefixes of these lengths.
    pub fn new(lengths: PrefixLengths) -> Self {
        let sketch = || Sketch::new(SIZE).expect("a power of two");
        // 256 bytes to 4 GiB.
        let bytes = || Histogram::new(exponential_buckets(256.0, 8.0, 9));
        Self {
            lengths,
            since: SystemTime::now(),
            sketches: Mutex::new(Sketches {
                connections: sketch(),
                bytes_received: sketch(),
                bytes_sent: sketch(),
                refused: sketch(),
            }),
            // A millisecond to four and a half hours.
            duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 4.0, 13))
            }),
            received: bytes(),
            sent: bytes(),
        }
    }

    /// Registers the histograms as metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "connection_duration",
            "How long connections with an origin lasted, by its evidence",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register_with_unit(
            "connection_received",
            "Payload that connections with an origin received",
            Unit::Bytes,
            self.received.clone(),
        );
        registry.register_with_unit(
            "connection_sent",
            "Payload that connections with an origin sent and the other end acknowledged",
            Unit::Bytes,
            self.sent.clone(),
        );
    }

    /// Counts a connection that has ended or was refused.
    pub fn note(&self, summary: &Summary) {
        let closed = &summary.closed;
        let prefix = self.lengths.prefix(closed.origin.client.socket_addr().ip());
        if summary.refused.is_some() {
            return self.lock().refused.update(prefix);
        }
        let mut sketches = self.lock();
        sketches.connections.update(prefix);
        sketches
            .bytes_received
            .update_with_count(prefix, closed.received);
        sketches.bytes_sent.update_with_count(prefix, closed.sent);
        drop(sketches);
        self.received.observe(closed.received as f64);
        self.sent.observe(closed.sent as f64);
        if let Some(evidence) = Evidence::from_u8(closed.origin.evidence) {
            let lasted = closed.closed.saturating_sub(closed.origin.since);
            self.duration
                .get_or_create(&[("evidence", evidence.name())])
                .observe(Duration::from_nanos(lasted).as_secs_f64());
        }
    }

    /// The busiest prefixes, at most `limit`.
    ///
    /// # Errors
    ///
    /// When live connections cannot be read.
    pub fn top(&self, origins: &dyn Origins, by: By, limit: usize) -> Result<Top> {
        let open = self.open(origins)?;
        let sketches = self.lock();
        let known: HashSet<_> = sketches.prefixes().chain(open.keys().copied()).collect();
        let mut prefixes: Vec<_> = known
            .into_iter()
            .map(|prefix| {
                let mut counts = sketches.each(|sketch| sketch.lower_bound(&prefix));
                let open = open.get(&prefix).copied().unwrap_or_default();
                counts.bytes_received += open.bytes_received;
                counts.bytes_sent += open.bytes_sent;
                Prefix {
                    prefix,
                    open: open.connections,
                    counts,
                }
            })
            .filter(|prefix| prefix.rank(by) > 0)
            .collect();
        let error = sketches.each(Sketch::maximum_error);
        drop(sketches);
        prefixes.sort_unstable_by_key(|p| (std::cmp::Reverse(p.rank(by)), p.prefix));
        prefixes.truncate(limit);
        Ok(Top {
            since: humantime::format_rfc3339_seconds(self.since).to_string(),
            error,
            prefixes,
        })
    }

    /// Open connections and their bytes by prefix. The kernel counts a FIN as a byte, which is subtracted.
    fn open(&self, origins: &dyn Origins) -> Result<HashMap<IpNet, Counts>> {
        let mut traffic = HashMap::new();
        for netns in Netns::all()? {
            let of_netns = sockets::traffic(&netns)?.into_iter();
            traffic.extend(of_netns.map(|traffic| (traffic.cookie, traffic)));
        }
        let mut open: HashMap<_, Counts> = HashMap::new();
        for (cookie, origin) in origins.all()? {
            let counts = open
                .entry(self.lengths.prefix(origin.client.socket_addr().ip()))
                .or_default();
            counts.connections += 1;
            if let Some(Traffic {
                received, acked, ..
            }) = traffic.get(&cookie)
            {
                let has = |fin| u64::from(origin.fins & fin != 0);
                counts.bytes_received += received.saturating_sub(has(Origin::FIN_RECEIVED));
                counts.bytes_sent += acked.saturating_sub(has(Origin::FIN_ACKED));
            }
        }
        Ok(open)
    }

    fn lock(&self) -> MutexGuard<'_, Sketches> {
        self.sketches.lock().expect("no holder panics")
    }
}

impl Sketches {
    /// The result of `count` for each sketch.
    fn each(&self, count: impl Fn(&Sketch) -> u64) -> Counts {
        Counts {
            connections: count(&self.connections),
            bytes_received: count(&self.bytes_received),
            bytes_sent: count(&self.bytes_sent),
            refused: count(&self.refused),
        }
    }

    /// The prefixes that any sketch knows, some of them more than once.
    fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let all = [
            &self.connections,
            &self.bytes_received,
            &self.bytes_sent,
            &self.refused,
        ];
        let known = |sketch: &Sketch| sketch.frequent_items(ErrorType::NoFalseNegatives);
        all.into_iter().flat_map(known).map(|row| *row.item())
    }
}
