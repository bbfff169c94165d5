//! The relays' metrics: labels are what the configuration names, never a client.

use std::net::SocketAddr;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::header::Refusal;

type Labels<const N: usize> = [(&'static str, String); N];

/// Of all relays.
#[derive(Clone, Default)]
pub struct Metrics {
    connections: Family<Labels<1>, Counter>,
    open: Family<Labels<1>, Gauge>,
    all_open: Gauge,
    refused: Family<Labels<2>, Counter>,
    bytes: Family<Labels<2>, Counter>,
    up: Family<Labels<2>, Gauge>,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Upstream,
    Downstream,
}

/// Of one relay.
pub(super) struct Relay {
    name: String,
    all: Metrics,
    connections: Counter,
    open: Gauge,
    upstream: Counter,
    downstream: Counter,
}

impl Metrics {
    /// Has them told.
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

    /// How many connections are open.
    pub(super) fn open(&self) -> u64 {
        self.all_open.get().try_into().unwrap_or(0)
    }

    /// Those of the relay with this name.
    pub(super) fn of(&self, relay: &str) -> Relay {
        let name = relay.to_owned();
        for refusal in Refusal::all() {
            drop(self.refused.get_or_create(&refused(&name, refusal)));
        }
        let bytes = |direction: &str| {
            let labels = [("relay", name.clone()), ("direction", direction.to_owned())];
            self.bytes.get_or_create_owned(&labels)
        };
        Relay {
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

fn refused(relay: &str, refusal: Refusal) -> Labels<2> {
    [
        ("relay", relay.to_owned()),
        ("reason", refusal.name().to_owned()),
    ]
}

impl Relay {
    /// A connection was accepted; it is open as long as the value lives.
    pub(super) fn opened(&self) -> Open {
        self.connections.inc();
        self.open.inc();
        self.all.all_open.inc();
        Open([self.open.clone(), self.all.all_open.clone()])
    }

    /// A connection was refused.
    pub(super) fn refused(&self, refusal: Refusal) {
        self.all
            .refused
            .get_or_create(&refused(&self.name, refusal))
            .inc();
    }

    /// Bytes were moved.
    pub(super) fn moved(&self, direction: Direction, bytes: usize) {
        let counter = match direction {
            Direction::Upstream => &self.upstream,
            Direction::Downstream => &self.downstream,
        };
        counter.inc_by(bytes as u64);
    }

    /// An upstream was checked.
    pub(super) fn set_up(&self, upstream: SocketAddr, is_up: bool) {
        let labels = [
            ("relay", self.name.clone()),
            ("upstream", upstream.to_string()),
        ];
        self.all.up.get_or_create(&labels).set(is_up.into());
    }
}

/// An open connection.
pub(super) struct Open([Gauge; 2]);

impl Drop for Open {
    fn drop(&mut self) {
        for gauge in &self.0 {
            gauge.dec();
        }
    }
}
