//! When a connection last moved bytes, which its idle timeout is counted from.

use std::{
    future,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use socket2::TcpKeepalive;
use tokio::time::{self, Instant};

/// When a silent peer is asked whether it is still there, in what intervals, and how often until it counts as gone.
pub(super) const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(120))
    .with_interval(Duration::from_secs(30))
    .with_retries(4);

/// The last time that a connection moved bytes, in either direction.
pub(super) struct Activity {
    start: Instant,
    /// Milliseconds from `start` to the last move.
    last: AtomicU64,
}

impl Activity {
    /// Begins now.
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// Notes that bytes move now.
    pub(super) fn note(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.last.store(now, Ordering::Relaxed);
    }

    /// When bytes last moved.
    pub(super) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Returns once nothing has moved for `limit`; never if there is none.
    pub(super) async fn idle_for(&self, limit: Option<Duration>) {
        loop {
            let end = limit.map(|limit| self.last() + limit);
            if end.is_some_and(|end| end <= Instant::now()) {
                return;
            }
            until(end).await;
        }
    }
}

/// Returns at the deadline; never if there is none.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => future::pending().await,
    }
}
