//! The agent: puts the configuration in place, keeps it in place, and takes it away again.

mod lock;
pub(crate) mod plan;
mod supervisor;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    task::block_in_place,
    time::{self, MissedTickBehavior},
};
use tracing::{error, info, warn};

use self::{lock::Lock, supervisor::Supervisor};
use crate::{
    config::{AgentSettings, Config},
    datapath::{self, Pins},
    origins::Origins,
    route::Journal,
};

/// How often named namespaces are looked at: nothing tells when one is replaced.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the agent until SIGTERM or SIGINT; SIGHUP reads the configuration at `path` again.
///
/// # Errors
///
/// When something cannot be put in place. What a start without predecessor had installed is removed
/// again.
pub async fn run(config: Config, path: Option<PathBuf>) -> Result<()> {
    let started = Instant::now();
    let mut signals = Signals::new()?;
    let is_first = Pins::open(&config.agent.bpffs).is_err();
    datapath::prepare(&config.agent.bpffs)?;
    let lock = Lock::take(&config.agent.bpffs)?;
    let changed = Arc::new(Notify::new());
    let journal = Journal::open(&journal_path(&config.agent))?;
    let mut supervisor = block_in_place(|| Supervisor::new(&config, journal, changed.clone()))?;
    if let Err(error) = block_in_place(|| supervisor.apply(&config.steer)) {
        if is_first {
            block_in_place(|| supervisor.remove()).unwrap_or_else(|e| warn!("{e:#}"));
        }
        return Err(error);
    }
    info!("attached after {} ms", started.elapsed().as_millis());
    let outcome = serve(&mut supervisor, config, path, &mut signals, &changed).await;
    block_in_place(|| supervisor.remove())?;
    drop(lock);
    outcome
}

/// Removes everything that truepeer installed on this host with this configuration.
///
/// # Errors
///
/// When an agent runs, or something could not be removed; the rest is removed all the same.
pub fn detach(config: &Config) -> Result<()> {
    let _lock = config
        .agent
        .bpffs
        .exists()
        .then(|| Lock::take(&config.agent.bpffs))
        .transpose()?;
    let undone = Journal::open(&journal_path(&config.agent)).and_then(|mut j| j.undo_all());
    let swept = crate::route::sweep_all();
    let removed = datapath::remove(&Pins::new(&config.agent.bpffs));
    undone.and(swept.map(drop)).and(removed)
}

/// Serves until a signal says to stop, then until the connections in progress have ended.
async fn serve(
    supervisor: &mut Supervisor,
    mut config: Config,
    path: Option<PathBuf>,
    signals: &mut Signals,
    changed: &Notify,
) -> Result<()> {
    let mut look = time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Stop => break,
                Request::Reload => reload(supervisor, &mut config, path.as_deref()),
            },
            () = changed.notified() => follow(supervisor),
            _ = look.tick() => if supervisor.is_outdated() { follow(supervisor) },
        }
    }
    block_in_place(|| supervisor.drain())?;
    drain(supervisor, config.agent.drain, signals).await
}

fn follow(supervisor: &mut Supervisor) {
    if let Err(error) = block_in_place(|| supervisor.follow()) {
        error!("{error:#}");
    }
}

/// Takes up the steers of the file. All else needs a new start; a bad file changes nothing.
fn reload(supervisor: &mut Supervisor, config: &mut Config, path: Option<&Path>) {
    let new = match Config::load(path) {
        Ok(new) => new,
        Err(error) => return error!("the configuration is not read again: {error}"),
    };
    if new.agent != config.agent {
        warn!("changes below [agent] take effect at the next start");
    }
    match block_in_place(|| supervisor.apply(&new.steer)) {
        Ok(()) => {
            config.steer = new.steer;
            info!("configuration read again");
        }
        Err(error) => error!("the new configuration is not taken up: {error:#}"),
    }
}

/// Waits for the connections in progress, at most `limit` or until another signal.
async fn drain(supervisor: &Supervisor, limit: Duration, signals: &mut Signals) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut told = 0;
    loop {
        let left = in_progress(supervisor)?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            warn!(
                "{left} connections were still in progress after {} s",
                limit.as_secs()
            );
            return Ok(());
        }
        if left != told {
            info!("waiting for {left} connections; another signal stops at once");
            told = left;
        }
        tokio::select! {
            () = time::sleep(Duration::from_millis(100)) => {}
            Request::Stop = signals.next() => return Ok(()),
        }
    }
}

/// How many connections with an origin are open.
fn in_progress(supervisor: &Supervisor) -> Result<u64> {
    let maps = supervisor.datapath.pins().status()?.maps;
    Ok(maps.first().map_or(0, |origins| origins.entries))
}

fn journal_path(agent: &AgentSettings) -> PathBuf {
    agent.socket.with_file_name("journal.json")
}

/// What a signal asks for.
enum Request {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            reload: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.reload.recv() => Request::Reload,
        }
    }
}
