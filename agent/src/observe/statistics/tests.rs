use agent_common::Closed;

use super::*;
use crate::connections::fixtures::{FakeOrigins, origin};

fn summary(client: &str, received: u64) -> Summary {
    let origin = origin(client);
    let closed = Closed {
        closed: origin.since + 1_500_000_000,
        origin,
        received,
        sent: 1,
        ..Closed::default()
    };
    Summary::new(closed, None)
}

fn top(statistics: &Statistics, by: By) -> Top {
    statistics.top(&FakeOrigins::default(), by, 20).unwrap()
}

#[test]
fn clients_of_a_prefix_count_together() {
    let statistics = Statistics::default();
    for client in ["203.0.113.7:1", "203.0.113.8:1", "[2001:db8::7]:1"] {
        statistics.note(&summary(client, 10));
    }
    statistics.note(&summary("[2001:db8:0:1::7]:1", 1000));
    let mut refused = summary("203.0.113.9:1", 0);
    refused.refused = Some("untrusted");
    statistics.note(&refused);
    let live = FakeOrigins(vec![
        (u64::MAX, origin("[2001:db8::1]:1")),
        (u64::MAX - 1, origin("[2001:db8::2]:1")),
    ]);

    let top = statistics.top(&live, By::Connections, 20).unwrap();
    assert_eq!(top.error, Counts::default());
    let shown: Vec<_> = top.prefixes.iter().map(|p| p.prefix.to_string()).collect();
    assert_eq!(
        shown,
        ["2001:db8::/64", "203.0.113.0/24", "2001:db8:0:1::/64"]
    );
    assert_eq!(
        (top.prefixes[0].open, top.prefixes[0].counts.connections),
        (2, 1)
    );
    let counts = Counts {
        connections: 2,
        bytes_received: 20,
        bytes_sent: 2,
        refused: 1,
    };
    assert_eq!(top.prefixes[1].counts, counts);

    let by_bytes = statistics.top(&live, By::Bytes, 1).unwrap();
    assert_eq!(by_bytes.prefixes.len(), 1);
    assert_eq!(by_bytes.prefixes[0].counts.bytes_received, 1000);
    let by_refused = statistics.top(&live, By::Refused, 20).unwrap();
    assert_eq!(by_refused.prefixes.len(), 1);
}

#[test]
fn memory_is_bounded_and_counts_are_as_wrong_as_told() {
    let statistics = Statistics::default();
    let rounds = 200_000_u32;
    let busy = 5_000;
    for n in 0..rounds {
        let [a, b, c, d] = (n << 8).to_be_bytes();
        statistics.note(&summary(&format!("{a}.{b}.{c}.{d}:1"), 1));
        if n % (rounds / busy) == 0 {
            statistics.note(&summary("203.0.113.7:1", 1));
        }
    }
    let sketches = statistics.lock();
    assert!(sketches.connections.estimated_size() < 200 << 10);
    assert!(sketches.prefixes().count() <= 3 * SIZE);
    drop(sketches);
    let top = top(&statistics, By::Connections);
    let error = top.error.connections;
    assert!(error > 0);
    assert!(error as f64 <= 3.5 / SIZE as f64 * f64::from(rounds + busy));
    let first = &top.prefixes[0];
    assert_eq!(first.prefix.to_string(), "203.0.113.0/24");
    let counted = first.counts.connections;
    let actual = u64::from(busy);
    assert!(
        counted <= actual && actual <= counted + error,
        "{counted} {error}"
    );
}

#[test]
fn histograms_name_no_client() {
    let statistics = Statistics::default();
    let mut registry = Registry::with_prefix("truepeer");
    statistics.register(&mut registry);
    for n in 0..100 {
        statistics.note(&summary(&format!("203.0.{n}.7:1"), 100));
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "truepeer_connection_duration_seconds_count{evidence=\"wire\"} 100\n",
        "truepeer_connection_duration_seconds_sum{evidence=\"wire\"} 150.0\n",
        "truepeer_connection_received_bytes_bucket{le=\"256.0\"} 100\n",
        "truepeer_connection_sent_bytes_sum 100.0\n",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
    assert!(!text.contains("203.0"));
}
