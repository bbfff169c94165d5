//! A running agent.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::api::get;
use super::config::Config;
use crate::host::process::Process;
use crate::wait::{Limit, eventually};

/// How long an agent may take to stop. It drains connections for 30 seconds by default.
const STOP: Limit = Limit::secs(60);
/// What the agent logs when it is in place.
const ATTACHED: &str = "attached after";
/// What the agent logs when it has taken up its configuration again.
const READ_AGAIN: &str = "configuration read again";

/// A running `truepeer run`, stopped on drop.
pub struct Agent {
    pub(super) binary: PathBuf,
    process: Process,
    pub(super) config: Config,
    /// How long it took from the start of the process until `/readyz` said so.
    pub ready_after: Duration,
}

impl Agent {
    /// Starts it and waits until it is ready.
    pub fn start(directory: &Path, config: Config) -> Result<Self> {
        Self::start_binary(&binary()?, directory, config)
    }

    /// Starts this binary and waits until it is ready.
    pub fn start_binary(binary: &Path, directory: &Path, config: Config) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["run", "--config"]).arg(config.write()?);
        Self::start_command(command, directory, config)
    }

    /// Starts it by a command, which ends up as the agent, and waits until it is ready.
    pub fn start_command(command: Command, directory: &Path, config: Config) -> Result<Self> {
        let binary = command.get_program().into();
        let started = Instant::now();
        let mut process = Process::start("agent", command, directory)?;
        let socket = &config.agent.socket;
        process.wait_until_ready(|| Ok(matches!(get(socket, "/readyz"), Ok((200, _)))))?;
        Ok(Self {
            ready_after: started.elapsed(),
            binary,
            process,
            config,
        })
    }

    /// Starts another beside it, which takes over, and waits until that is in place. Returns the former one.
    pub fn follow(&mut self, directory: &Path) -> Result<Self> {
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--takeover", "--config"])
            .arg(self.config.write()?);
        let config = self.config.clone();
        let mut next = None;
        self.says(ATTACHED, || {
            next = Some(Self::start_command(command, directory, config)?);
            Ok(())
        })?;
        let next = next.context("it was started")?;
        Ok(std::mem::replace(self, next))
    }

    /// Starts another beside it, with a configuration with which that does not start, and waits until this one goes on. Returns
    /// what the other said.
    pub fn is_followed_in_vain(&self, bad: &Config) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--takeover", "--config"])
            .arg(bad.write()?);
        let mut said = String::new();
        self.says(ATTACHED, || {
            let output = command.output()?;
            said = String::from_utf8(output.stderr)?;
            ensure!(!output.status.success(), "it has ended by itself: {said}");
            Ok(())
        })?;
        self.config.write()?;
        Ok(said)
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        self.process.log()
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(STOP)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Writes another configuration to its file, sends SIGHUP, and waits until the agent has taken it up.
    pub fn reload(&self, config: &Config) -> Result<()> {
        self.says(READ_AGAIN, || {
            config.write()?;
            self.signal(Signal::SIGHUP)
        })
    }

    /// Runs `done`, and waits until the agent has logged `text` once more than before.
    pub fn says(&self, text: &str, done: impl FnOnce() -> Result<()>) -> Result<()> {
        let times = || anyhow::Ok(self.log()?.matches(text).count());
        let before = times()?;
        done()?;
        let what = format!("{text:?} is logged");
        eventually(&what, || Ok((times()? > before).then_some(())))
    }

    /// Its exit status; `None` while it runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.process.exited()
    }

    /// Kills it, as a crash would. Returns its configuration for a successor.
    pub fn kill(self) -> Result<Config> {
        self.process.kill()?;
        Ok(self.config)
    }
}

/// Runs a command of the agent's binary and waits for its end.
pub fn truepeer(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()?).args(arguments).output()?)
}

/// The agent's binary: the one that `TRUEPEER_BIN` names, or the newest that was built here.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRUEPEER_BIN") {
        return Ok(path.into());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile).join("truepeer"))
        .filter_map(|path| Some((path.metadata().and_then(|m| m.modified()).ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .context("the agent is not built: run `cargo xtask test`, which builds it")
}
