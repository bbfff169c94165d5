//! Sums of what became of connections.

use super::judge::Attempt;
use super::way::Seen;

/// The columns of the account.
pub(super) const HEAD: [&str; 9] = [
    "way",
    "",
    "connections",
    "MB compared",
    "right",
    "unknown",
    "wrong",
    "different",
    "failed",
];

/// What became of some connections.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) connections: u64,
    bytes: u64,
    pub(super) right: u64,
    unknown: u64,
    wrong: u64,
    different: u64,
    failed: u64,
}

impl Tally {
    /// Counts a connection.
    pub(super) fn add(&mut self, attempt: &Attempt) {
        self.connections += 1;
        self.bytes += attempt.bytes;
        match attempt.seen {
            Some((Seen::Right, ..)) => self.right += 1,
            Some((Seen::Unknown, ..)) => self.unknown += 1,
            Some((Seen::Wrong, ..)) => self.wrong += 1,
            None => {}
        }
        if let Some(failure) = &attempt.failure {
            self.different += u64::from(failure.is_different);
            self.failed += 1;
        }
    }

    /// Adds other connections to these.
    pub(super) fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        self.bytes += other.bytes;
        self.right += other.right;
        self.unknown += other.unknown;
        self.wrong += other.wrong;
        self.different += other.different;
        self.failed += other.failed;
    }

    /// A row of the account, below [`HEAD`].
    pub(super) fn row(&self, way: &str, family: &str) -> Vec<String> {
        vec![
            way.into(),
            family.into(),
            self.connections.to_string(),
            (self.bytes / 1_000_000).to_string(),
            self.right.to_string(),
            self.unknown.to_string(),
            self.wrong.to_string(),
            self.different.to_string(),
            self.failed.to_string(),
        ]
    }
}
