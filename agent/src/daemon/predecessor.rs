//! The agent that runs already, if another is to follow it without a gap.

use std::{
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time;
use tracing::{info, warn};

use super::lock::Lock;
use crate::host::{inherited::Inherited, processes};

/// How long it may take to let go of the data path.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the lock is tried meanwhile.
const TRY: Duration = Duration::from_millis(10);

/// An agent that makes way. Unless it is told that its successor is in place, it goes on when that one ends.
pub(super) struct Predecessor {
    process: OwnedFd,
    pid: i32,
}

impl Predecessor {
    /// Tells it that another agent is in place.
    pub(super) fn release(&self) {
        if let Err(error) = ask(&self.process) {
            let pid = self.pid;
            warn!("process {pid} is not told that this one has followed it: {error}");
        }
    }
}

/// Takes the lock of `directory` and, if an agent has it, copies of that agent's listening sockets: while neither agent accepts
/// connections, they wait.
///
/// # Errors
///
/// When the agent cannot hand over, or does not; before it is asked, nothing has changed.
pub(super) async fn follow(
    directory: &Path,
    inherited: &mut Inherited,
) -> Result<(Lock, Option<Predecessor>)> {
    let Some(pid) = Lock::holder(directory)? else {
        return Ok((Lock::take(directory)?, None));
    };
    let process = open(directory, pid)
        .with_context(|| format!("cannot take over from process {pid}: stop it first"))?;
    let sockets = processes::listeners_of(&process, pid);
    inherited
        .add(sockets.with_context(|| format!("cannot take over the sockets of process {pid}"))?);
    ask(&process).with_context(|| format!("cannot ask process {pid} to hand over"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = Lock::try_take(directory)? {
            info!("took over from process {pid}");
            return Ok((lock, Some(Predecessor { process, pid })));
        }
        if Instant::now() >= deadline {
            let seconds = PATIENCE.as_secs();
            bail!("process {pid} has not handed over within {seconds} s: stop it first");
        }
        time::sleep(TRY).await;
    }
}

/// Asks it to hand over, or, when it has, tells it that somebody is in place.
fn ask(process: &OwnedFd) -> rustix::io::Result<()> {
    pidfd_send_signal(process, Signal::USR2)
}

/// A handle of the agent with this process id, which nobody else has from here on.
fn open(directory: &Path, pid: i32) -> Result<OwnedFd> {
    let id = Pid::from_raw(pid).context("it is in no process namespace that this one sees")?;
    let process = pidfd_open(id, PidfdFlags::empty())?;
    let status = procfs::process::Process::new(pid)?.status()?;
    // Others that hold the lock, such as `truepeer detach`, would be killed by the signal.
    let caught = status.sigcgt & 1 << (Signal::USR2.as_raw() - 1) != 0;
    ensure!(caught, "it hands over to nobody");
    ensure!(Lock::holder(directory)? == Some(pid), "it has just ended");
    Ok(process)
}
