//! The busiest prefixes, as the API lists them.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What a ranking of prefixes goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Connections, both open and ended.
    #[default]
    Connections,
    /// Bytes in both directions.
    Bytes,
    /// Connections that were refused.
    Refused,
}

/// The prefixes of the busiest clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    /// When counting began (RFC 3339).
    pub since: String,
    /// How much too low the counts may be, at most.
    pub error: Counts,
    /// The prefixes, the busiest first.
    pub prefixes: Vec<Prefix>,
}

/// A prefix with its connections. Each hop on this host counts, as each has an origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// The prefix of clients or, where connections were refused before their clients were known, of senders.
    pub prefix: IpNet,
    /// Connections with an origin that are open now: always exact.
    pub open: u64,
    /// Connections that have ended or were refused, and the bytes of all, even of open ones.
    #[serde(flatten)]
    pub counts: Counts,
}

/// The counts of a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections that have ended.
    pub connections: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Payload bytes that the other ends acknowledged.
    pub bytes_sent: u64,
    /// Connections that were refused.
    pub refused: u64,
}

impl Prefix {
    /// The count that a ranking goes by.
    pub(super) fn rank(&self, by: By) -> u64 {
        match by {
            By::Connections => self.open + self.counts.connections,
            By::Bytes => self.counts.bytes_received + self.counts.bytes_sent,
            By::Refused => self.counts.refused,
        }
    }
}
