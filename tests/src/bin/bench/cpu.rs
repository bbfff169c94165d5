//! Processor time: the whole machine's, and that of what is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use tests::stop::Stop;

/// How long the machine is watched at a time.
const WATCH: Duration = Duration::from_millis(300);
/// How long others are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// A machine is quiet when less than this share of it is busy.
pub(crate) const QUIET: f64 = 0.05;

/// Processor time since some moment in the past.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// Of the whole machine, whatever it was used for.
    pub(crate) machine: Duration,
    /// Of the processes that take part, and of the kernel's threads that handle packets when there
    /// are too many. What the kernel does for a process counts as the process's, interrupts during
    /// that time too, except where the kernel accounts for interrupts apart
    /// (`CONFIG_IRQ_TIME_ACCOUNTING`).
    pub(crate) processes: Duration,
}

impl Used {
    /// Until now; the processes are this one, `others` and the kernel's.
    pub(crate) fn until_now(others: &[u32]) -> Result<Self> {
        let mut processes = Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?);
        for pid in others.iter().copied().chain(packet_threads()?) {
            let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into()?))?;
            processes += Duration::from(clock_gettime(clock)?);
        }
        Ok(Self {
            machine: busy()?,
            processes,
        })
    }

    /// Since an earlier moment.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            machine: self.machine.saturating_sub(before.machine),
            processes: self.processes.saturating_sub(before.processes),
        }
    }
}

/// The kernel's threads `ksoftirqd/N`.
fn packet_threads() -> Result<Vec<u32>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            threads.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    Ok(threads)
}

/// Time that all processors together have been busy since the machine started: processes, kernel,
/// interrupts. What a hypervisor took away is not counted.
fn busy() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat
        .strip_prefix("cpu ")
        .and_then(|rest| rest.lines().next())
        .context("/proc/stat does not begin with `cpu`")?;
    // proc_stat(5): user, nice, system, idle, iowait, irq, softirq; user and nice include guests.
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("/proc/stat")?;
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat has too few columns: {line}");
    };
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    let ticks = user + nice + system + irq + softirq;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Waits until the machine is quiet, or has not become so for a while. Returns the share of it that
/// is busy nevertheless, between 0 and 1.
pub(crate) fn wait_until_quiet(stop: &Stop) -> Result<f64> {
    let end = Instant::now() + PATIENCE;
    loop {
        let (started, before) = (Instant::now(), busy()?);
        stop.sleep(WATCH)?;
        let used = busy()?.saturating_sub(before);
        let had = started.elapsed() * processors()?;
        let share = (used.as_secs_f64() / had.as_secs_f64()).min(1.0);
        if share < QUIET || Instant::now() > end {
            return Ok(share);
        }
    }
}

/// How many processors are online.
pub(crate) fn processors() -> Result<u32> {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN)?.context("no number of processors")?;
    Ok(online.try_into()?)
}
