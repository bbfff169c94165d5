//! How many lines a flood of refused connections can have.

use std::time::{Duration, Instant};

/// So many at once,
const BURST: u32 = 1000;
/// and then one each: a hundred a second.
const INTERVAL: Duration = Duration::from_millis(10);

/// A rate that is kept to, by the generic cell rate algorithm (ITU-T I.371).
pub(super) struct Rate {
    /// When the next would come, if all came one each interval.
    due: Instant,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// Whether there is room for another, which takes it.
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
