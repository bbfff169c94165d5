//! Child processes with a log file.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::host::netns::Netns;
use crate::wait::{Limit, SOON, TIME_FACTOR, factor, within};

/// How long a process may take to be ready: an agent with a hundred pods loads a hundred programs.
const READY: Limit = Limit::secs(60);

/// A child that is stopped on drop, and by the kernel when this process is killed.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to `<directory>/<name>.log`.
    pub fn start(name: &str, mut command: Command, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        command
            .env(TIME_FACTOR, factor().to_string())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C at a terminal is for this process, which stops its children in order.
            .process_group(0);
        // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                // A child inherits blocked signals.
                SigSet::empty().thread_set_mask()?;
                Ok(set_pdeathsig(Signal::SIGTERM)?)
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("start {:?}", command.get_program()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it has written so far.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// Its exit status; `None` while it runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until `ready`; fails at once when the process ends before.
    pub fn wait_until_ready(&mut self, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        let what = format!("{} is ready", self.name);
        within(READY, &what, || {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended: {status}\n{}",
                    self.name,
                    std::fs::read_to_string(&self.log)?
                );
            }
            Ok(ready()?.then_some(()))
        })
    }

    /// Waits until it listens on all of `addresses` inside `netns`.
    pub fn wait_until_it_listens(
        &mut self,
        netns: &Netns,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<()> {
        for address in addresses {
            self.wait_until_ready(|| netns.listens(address))?;
        }
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().try_into()?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits for the end.
    pub fn wait(&mut self, limit: Limit) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        within(limit, &what, || Ok(self.child.try_wait()?))
    }

    /// Asks it to stop and waits for that.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(SOON)
    }

    /// Kills it, as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        if self.signal(Signal::SIGTERM).is_err() || self.wait(SOON).is_err() {
            eprintln!("{} did not stop; it is killed", self.name);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A name that nothing else has, for a process, its log and its files: `envoy-3`.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Finds a program that the tests need: the one that an environment variable names, or the one on the path.
pub fn find(variable: &str, name: &str) -> Result<String> {
    if let Ok(path) = std::env::var(variable) {
        if Path::new(&path).is_file() {
            return Ok(path);
        }
        bail!(
            "{variable} names {path}, which is not a file: run `cargo xtask test`, which installs {name}"
        );
    }
    // Debian keeps servers in sbin, which is not on every user's path.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    path.split(':')
        .map(|directory| format!("{directory}/{name}"))
        .find(|candidate| Path::new(candidate).is_file())
        .with_context(|| {
            format!("{name} is not installed: run `cargo xtask test`, which installs it")
        })
}
