//! What the program before a node's own NAT takes for a SYN, by the kernel's own account.

use std::os::fd::OwnedFd;
use std::time::Duration;

use agent_common::names::program::NODE;
use anyhow::Result;
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

/// The kernel's account, which it keeps as long as this lives.
pub(crate) struct Account {
    _kept: OwnedFd,
    before: (Duration, u64),
}

impl Account {
    pub(crate) fn open() -> Result<Self> {
        Ok(Self {
            _kept: enable_stats(Stats::RunTime)?,
            before: total()?,
        })
    }

    /// What a run of the program took since then, on average, the keeping of the account included; zero if it is not
    /// there.
    pub(crate) fn average(&self) -> Result<Duration> {
        let ((before, so_far), (time, runs)) = (self.before, total()?);
        let runs = u32::try_from(runs - so_far)?;
        Ok((time - before).checked_div(runs).unwrap_or_default())
    }
}

/// How long the program has run, and how often. Only what is measured has packets.
fn total() -> Result<(Duration, u64)> {
    let mut total = (Duration::ZERO, 0);
    for program in loaded_programs() {
        // One that has gone meanwhile.
        let Ok(program) = program else { continue };
        if program.name_as_str() == Some(NODE) {
            total.0 += program.run_time();
            total.1 += program.run_count();
        }
    }
    Ok(total)
}
