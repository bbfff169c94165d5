//! The agent: puts the configuration in place, keeps it in place, and takes it away again.

mod adoption;
mod agent;
mod keeper;
mod lock;
mod partial;
mod plan;
mod served;
mod signals;
mod supervisor;
mod wanted;

use std::time::Instant;

use anyhow::Result;
use tokio::task::block_in_place;
use tracing::info;

use self::{agent::Agent, lock::Lock, signals::Signals};
pub use self::{agent::Load, partial::Partial};
use crate::{
    api::Server,
    config::Config,
    datapath::{self, Pins},
    route::{self, Journal},
};

/// Runs the agent until SIGTERM or SIGINT; SIGHUP reads the configuration again, by `load`.
///
/// # Errors
///
/// When something cannot be put in place. What a start without predecessor had installed is removed
/// again.
pub async fn run(config: Config, load: Load) -> Result<()> {
    let started = Instant::now();
    let signals = Signals::new()?;
    let is_first = Pins::open(&config.agent.bpffs).is_err();
    Pins::new(&config.agent.bpffs).create()?;
    let lock = Lock::take(&config.agent.bpffs)?;
    // Lock and socket are this agent's from here on, and so is what their journal and pins hold.
    let server = Server::bind(&config.agent.socket, config.agent.metrics).await?;
    let outcome = match Agent::start(config.clone(), load, server).await {
        Ok(agent) => {
            info!("attached after {} ms", started.elapsed().as_millis());
            agent.serve(signals).await
        }
        Err(error) => Err(error),
    };
    let is_kept = outcome.is_ok() && config.agent.keep;
    if !is_kept && (outcome.is_ok() || is_first) {
        block_in_place(|| remove(&config))?;
    }
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
    let removed = remove(config);
    let doctors = Pins::of_doctor(&config.agent.bpffs).remove();
    removed.and(route::sweep_all().map(drop)).and(doctors)
}

/// Removes what the journal and the pins know.
fn remove(config: &Config) -> Result<()> {
    let undone = Journal::open(&config.agent.journal()).and_then(|mut j| j.undo_all());
    undone.and(datapath::remove(&Pins::new(&config.agent.bpffs)))
}
