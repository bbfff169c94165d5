//! What the clients of a measurement share.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long the load runs before the measurement.
pub(crate) const WARM_UP: Duration = Duration::from_millis(300);

/// Shared by the clients.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) amount: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) wrong: AtomicU64,
    pub(crate) unknown: AtomicU64,
    /// How long each paced connection took.
    pub(crate) took: Mutex<Vec<Duration>>,
    pub(crate) done: AtomicBool,
    /// Why nothing that was measured counts.
    pub(crate) broken: Mutex<Option<anyhow::Error>>,
}

impl Progress {
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, amount: u64) {
        self.amount.fetch_add(amount, Ordering::Relaxed);
    }
}
