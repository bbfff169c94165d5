//! Limits the lines that a flood of refused connections can cause.

use std::time::{Duration, Instant};

/// How many lines may come at once.
const BURST: u32 = 1000;
/// The interval of lines after a burst: a hundred a second.
const INTERVAL: Duration = Duration::from_millis(10);

/// A rate limit by the generic cell rate algorithm (ITU-T I.371).
pub(super) struct Rate {
    /// When the next line would be due if lines came at the interval.
    due: Instant,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// Whether another line is allowed, which then counts.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        let due = self.due.max(now);
        let allows = due - now < INTERVAL * BURST;
        if allows {
            self.due = due + INTERVAL;
        }
        allows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_each_interval() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let mut allowed = |n, now| (0..n).filter(|_| rate.allows(now)).count();
        assert_eq!(allowed(5000, start), 1000);
        assert_eq!(allowed(5000, start + INTERVAL), 1);
        assert_eq!(allowed(5000, start + INTERVAL * 11), 10);
        assert_eq!(allowed(5000, start + Duration::from_secs(60)), 1000);
    }
}
