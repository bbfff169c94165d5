//! Limits the lines that a flood of refused connections can cause in a log.

use std::time::{Duration, Instant};

/// A rate limit by the generic cell rate algorithm (ITU-T I.371).
#[derive(Debug)]
pub struct Rate {
    /// How many lines may come at once.
    burst: u32,
    /// The interval of lines after a burst.
    interval: Duration,
    /// When the next line would be due if lines came at the interval.
    due: Instant,
}

impl Rate {
    /// Allows `burst` lines at once, and then one each `interval`.
    pub fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self {
            burst,
            interval,
            due: now,
        }
    }

    /// Whether another line is allowed, which then counts.
    pub fn allows(&mut self, now: Instant) -> bool {
        let due = self.due.max(now);
        let allows = due - now < self.interval * self.burst;
        if allows {
            self.due = due + self.interval;
        }
        allows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);

    #[test]
    fn a_burst_and_then_one_each_interval() {
        let start = Instant::now();
        let mut rate = Rate::new(1000, INTERVAL, start);
        let mut allowed = |n, now| (0..n).filter(|_| rate.allows(now)).count();
        assert_eq!(allowed(5000, start), 1000);
        assert_eq!(allowed(5000, start + INTERVAL), 1);
        assert_eq!(allowed(5000, start + INTERVAL * 11), 10);
        assert_eq!(allowed(5000, start + Duration::from_secs(60)), 1000);
    }
}
