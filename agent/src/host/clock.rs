//! The clock since boot, by which the data path stamps its records, and the time of day.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`: the time since boot, which goes on while the host sleeps.
pub fn now() -> u64 {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME);
    since_boot.map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// Turns times since boot into times of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    booted: SystemTime,
}

impl Clock {
    /// Reads both clocks. Whoever sets the time of day makes the result obsolete.
    pub fn read() -> Result<Self> {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).context("cannot read the clock")?;
        let booted = SystemTime::now() - Duration::from(since_boot);
        Ok(Self { booted })
    }

    /// The time of day at `boottime` nanoseconds of `CLOCK_BOOTTIME`.
    pub fn wall(&self, boottime: u64) -> SystemTime {
        self.booted + Duration::from_nanos(boottime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_since_boot_becomes_the_time_of_day() {
        let wall = Clock::read().unwrap().wall(now());
        let second = Duration::from_secs(1);
        let around = SystemTime::now() - second..SystemTime::now() + second;
        assert!(around.contains(&wall));
    }
}
