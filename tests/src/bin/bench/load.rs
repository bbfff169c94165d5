//! Keeps an application busy and counts what it does meanwhile.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::client::{PACERS, connect, download, getpeername, paced, syns, upload};
use crate::cpu::Used;
use crate::idle::{self, Idle};
use crate::pod::{CROWD, Pod};
use crate::progress::{Progress, WARM_UP};
use crate::stats;
use crate::syn::Account;
use crate::work::Work;
use tests::stop::Stop;

/// One connection in so many may fail: a sidecar's proxy may choose the very port that the client
/// has, and then both connections have the same addresses.
pub(crate) const TOLERATED: u64 = 1000;

/// What one measurement found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Connections, bytes or calls.
    pub(crate) amount: u64,
    /// Connections that failed, of all: before and after the measured time, too.
    pub(crate) failed: u64,
    /// Connections whose client the application took for another.
    pub(crate) wrong: u64,
    /// Connections of which the application saw the last hop's address instead of the client's.
    pub(crate) unknown: u64,
    /// How long it took.
    pub(crate) time: Duration,
    /// Processor time that went into it.
    pub(crate) cpu: Used,
    /// How long the slowest hundredth of the paced connections took at least, from `connect()` to the
    /// answer; zero for other work.
    pub(crate) p99: Duration,
    /// What the program before a node's own NAT took for a SYN; zero without one, and for other work.
    pub(crate) syn: Duration,
    /// Of idle connections; zero for other work.
    pub(crate) idle: Idle,
}

impl Sample {
    /// Connections, bytes or calls per second.
    pub(crate) fn rate(&self) -> f64 {
        self.amount as f64 / self.time.as_secs_f64()
    }

    /// Connections, bytes or calls per second of the machine's processor time.
    pub(crate) fn per_machine_second(&self) -> f64 {
        self.amount as f64 / self.cpu.machine.as_secs_f64()
    }

    /// Connections, bytes or calls per second of the processes' processor time.
    pub(crate) fn per_process_second(&self) -> f64 {
        self.amount as f64 / self.cpu.processes.as_secs_f64()
    }
}

/// Measures `work` for `time`.
pub(crate) fn measure(
    pod: &Pod,
    work: Work,
    concurrency: u16,
    time: Duration,
    stop: &Stop,
) -> Result<Sample> {
    let clients = match work {
        Work::Idle => {
            let (amount, idle) = idle::measure(pod, stop)?;
            return Ok(Sample {
                amount,
                idle,
                ..Sample::default()
            });
        }
        Work::Connections => concurrency,
        Work::Crowd => CROWD,
        Work::Paced => PACERS,
        Work::Upload | Work::Download | Work::Getpeername | Work::Syns => 1,
    };
    let account = (work == Work::Syns).then(Account::open).transpose()?;
    let progress = Progress::default();
    let (amount, time, cpu) = std::thread::scope(|scope| {
        for client in 0..clients {
            let progress = &progress;
            scope.spawn(move || {
                pod.client().join().expect("enter the client's namespace");
                let outcome = match work {
                    Work::Idle => unreachable!("measured above"),
                    Work::Connections => connect(pod, client, clients, progress),
                    Work::Upload => upload(pod, 0, progress),
                    Work::Crowd => upload(pod, client.into(), progress),
                    Work::Paced => paced(pod, client, progress),
                    Work::Download => download(pod, progress),
                    Work::Getpeername => getpeername(pod, progress),
                    Work::Syns => syns(pod, progress),
                };
                if let Err(error) = outcome {
                    *progress.broken.lock().expect("no client panics") = Some(error);
                }
            });
        }
        let watched = watch(pod, &progress, time, stop);
        progress.done.store(true, Ordering::Relaxed);
        watched
    })?;
    if let Some(error) = progress.broken.into_inner().expect("no client panics") {
        return Err(error);
    }
    let took = progress.took.into_inner().expect("no client panics");
    let sample = Sample {
        p99: stats::percentile(took, 99),
        syn: account.map_or(Ok(Duration::ZERO), |account| account.average())?,
        amount,
        time,
        cpu,
        failed: progress.failed.into_inner(),
        wrong: progress.wrong.into_inner(),
        unknown: progress.unknown.into_inner(),
        idle: Idle::default(),
    };
    ensure!(sample.amount > 0, "nothing came through");
    ensure!(
        sample.failed <= sample.amount / TOLERATED,
        "{} connections failed, {} did not",
        sample.failed,
        sample.amount
    );
    Ok(sample)
}

/// What happens between two moments of the load: connections, bytes or calls, the time and the processor
/// time that they took.
pub(crate) fn watch(
    pod: &Pod,
    progress: &Progress,
    time: Duration,
    stop: &Stop,
) -> Result<(u64, Duration, Used)> {
    stop.sleep(WARM_UP)?;
    let others = pod.processes();
    let so_far = || progress.amount.load(Ordering::Relaxed);
    let (amount, started, cpu) = (so_far(), Instant::now(), Used::until_now(&others)?);
    stop.sleep(time)?;
    let cpu = Used::until_now(&others)?.since(cpu);
    Ok((so_far() - amount, started.elapsed(), cpu))
}
