//! The metrics of the relays. Labels name what is in the configuration, never a client.

use std::net::SocketAddr;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::reason::RefusalReason;

type Labels<const N: usize> = [(&'static str, String); N];

/// The metrics of all relays.
#[derive(Clone, Default)]
pub struct Metrics {
    connections: Family<Labels<1>, Counter>,
    open: Family<Labels<1>, Gauge>,
    all_open: Gauge,
    refused: Family<Labels<2>, Counter>,
    bytes: Family<Labels<2>, Counter>,
    up: Family<Labels<2>, Gauge>,
}

/// Which way bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Upstream,
    Downstream,
}

/// The metrics of one relay.
pub(super) struct RelayMetrics {
    name: String,
    all: Metrics,
    connections: Counter,
    open: Gauge,
    upstream: Counter,
    downstream: Counter,
}

impl Metrics {
    /// Registers them, so that the agent exposes them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "relay_connections",
            "Connections that a relay accepted, refused ones included",
            self.connections.clone(),
        );
        registry.register(
            "relay_open_connections",
            "Connections that a relay holds",
            self.open.clone(),
        );
        registry.register(
            "relay_refused_connections",
            "Connections, or HTTP requests by a policy, that a relay refused",
            self.refused.clone(),
        );
        registry.register(
            "relay_bytes",
            "Bytes that a relay moved, without PROXY headers",
            self.bytes.clone(),
        );
        registry.register(
            "relay_upstream_up",
            "1 while health checks reach an upstream",
            self.up.clone(),
        );
    }

    /// How many connections all relays hold.
    pub fn open(&self) -> u64 {
        self.all_open.get().try_into().unwrap_or(0)
    }

    /// The metrics of the relay with this name. Its counters of refusals begin at 0.
    pub(super) fn of(&self, relay: &str) -> RelayMetrics {
        let name = relay.to_owned();
        for reason in RefusalReason::all() {
            drop(self.refused.get_or_create(&refused(&name, reason)));
        }
        let bytes = |direction: &str| {
            let labels = [("relay", name.clone()), ("direction", direction.to_owned())];
            self.bytes.get_or_create_owned(&labels)
        };
        RelayMetrics {
            all: self.clone(),
            connections: self
                .connections
                .get_or_create_owned(&[("relay", name.clone())]),
            open: self.open.get_or_create_owned(&[("relay", name.clone())]),
            upstream: bytes("upstream"),
            downstream: bytes("downstream"),
            name,
        }
    }
}

/// Labels of the counter of refusals.
fn refused(relay: &str, reason: RefusalReason) -> Labels<2> {
    [
        ("relay", relay.to_owned()),
        ("reason", reason.name().to_owned()),
    ]
}

impl RelayMetrics {
    /// Counts a connection, which is open as long as the returned value lives.
    pub(super) fn opened(&self) -> OpenConnection {
        self.connections.inc();
        self.open.inc();
        self.all.all_open.inc();
        OpenConnection([self.open.clone(), self.all.all_open.clone()])
    }

    /// Counts a refusal.
    pub(super) fn refused(&self, reason: RefusalReason) {
        self.all
            .refused
            .get_or_create(&refused(&self.name, reason))
            .inc();
    }

    /// Counts bytes of payload.
    pub(super) fn moved(&self, direction: Direction, bytes: usize) {
        let counter = match direction {
            Direction::Upstream => &self.upstream,
            Direction::Downstream => &self.downstream,
        };
        counter.inc_by(bytes as u64);
    }

    /// Notes what the check of an upstream found.
    pub(super) fn set_up(&self, upstream: SocketAddr, is_up: bool) {
        let labels = [
            ("relay", self.name.clone()),
            ("upstream", upstream.to_string()),
        ];
        self.all.up.get_or_create(&labels).set(is_up.into());
    }
}

/// An open connection, counted by the gauges of its relay and of all relays until dropped.
pub(super) struct OpenConnection([Gauge; 2]);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        for gauge in &self.0 {
            gauge.dec();
        }
    }
}
