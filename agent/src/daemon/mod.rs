//! The agent: puts the configuration in place, keeps it in place, and takes it away again.

mod adoption;
mod agent;
mod awaited;
mod beginning;
mod change;
mod drain;
mod keeper;
mod lock;
mod losses;
mod partial;
mod plan;
mod predecessor;
mod retired;
mod served;
mod signals;
mod supervisor;
mod wanted;

use std::time::Instant;

use anyhow::{Result, bail};
use tokio::task::block_in_place;
use tracing::{error, info};

use self::{
    agent::Agent, beginning::Beginning, lock::Lock, predecessor::Predecessor, retired::Retired,
    signals::Signals,
};
pub use self::{beginning::Load, partial::Partial};
use crate::{
    api::Server,
    config::Config,
    datapath::{self, Pins},
    host::{confinement, inherited::Inherited},
    route::{self, Journal},
};

/// Runs the agent until SIGTERM or SIGINT; SIGHUP reads the configuration again, by `load`. With `takes_over`, the agent that
/// runs already makes way for it.
///
/// # Errors
///
/// When something cannot be put in place. What a start without predecessor had installed is removed
/// again.
pub async fn run(config: Config, load: Load, takes_over: bool) -> Result<()> {
    let mut signals = Signals::new()?;
    let bpffs = &config.agent.bpffs;
    let pins = Pins::new(bpffs);
    let mut is_first = pins.is_empty()?;
    pins.create()?;
    let mut inherited = Inherited::of_systemd();
    let (lock, mut predecessor) = match takes_over {
        true => predecessor::follow(bpffs, &mut inherited).await?,
        false => (Lock::take(bpffs)?, None),
    };
    let mut beginning = Beginning {
        config,
        load,
        lock,
        inherited,
        former: Vec::new(),
    };
    loop {
        let (former, limit) = (beginning.former.clone(), beginning.config.agent.drain);
        let served = serve(beginning, predecessor.take(), is_first, &mut signals).await;
        if let Err(error) = &served
            && !former.is_empty()
        {
            error!(
                "this agent cannot go on, and what its relays have begun does until SIGTERM: {error:#}"
            );
            retired::linger(&former, limit, &mut signals).await?;
        }
        let Some(retired) = served? else {
            return Ok(());
        };
        let Some(again) = retired.serve(&mut signals).await? else {
            return Ok(());
        };
        beginning = again;
        is_first = false;
    }
}

/// Runs an agent until it is to stop, or until another follows: then returns what is left of it.
async fn serve(
    beginning: Beginning,
    predecessor: Option<Predecessor>,
    is_first: bool,
    signals: &mut Signals,
) -> Result<Option<Retired>> {
    let started = Instant::now();
    let Beginning {
        config,
        load,
        lock,
        mut inherited,
        former,
    } = beginning;
    // Lock and socket are this agent's from here on, and so is what their journal and pins hold.
    let server = Server::bind(&config.agent.socket, config.agent.metrics, &mut inherited).await?;
    let outcome = match Agent::start(config.clone(), load, server, inherited, former).await {
        Ok(agent) => {
            info!("attached after {} ms", started.elapsed().as_millis());
            if let Some(predecessor) = predecessor {
                predecessor.release();
            }
            match agent.serve(signals).await {
                // What is in place stays.
                Ok(Some(retired)) => return Ok(Some(retired)),
                served => served.map(drop),
            }
        }
        Err(error) => Err(error),
    };
    let is_kept = outcome.is_ok() && config.agent.keep;
    let outcome = if !is_kept && (outcome.is_ok() || is_first) {
        // What could not be put in place may not be removable for the same reason: both are told.
        let removed = block_in_place(|| remove(&config));
        all([outcome, removed])
    } else {
        outcome
    };
    drop(lock);
    outcome.map(|()| None)
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
    all([
        remove(config),
        sweep(config),
        Pins::of_doctor(&config.agent.bpffs).remove(),
    ])
}

/// Removes rules and routes that no journal knows, by the tag that is the same for all agents: so not while the kernel runs
/// another one's programs.
fn sweep(config: &Config) -> Result<()> {
    let others = datapath::others(&Pins::new(&config.agent.bpffs))?;
    if others.is_empty() {
        return route::sweep_all().map(drop);
    }
    for other in others {
        let other = other.display();
        info!(
            "rules and routes stay that no journal knows: they may be those of the agent with `bpffs` {other}"
        );
    }
    Ok(())
}

/// Removes what the journal and the pins know.
fn remove(config: &Config) -> Result<()> {
    all([
        Journal::open(&config.agent.journal()).and_then(|mut j| j.undo_all()),
        datapath::remove(&Pins::new(&config.agent.bpffs)),
    ])
}

/// Fails with everything that failed, and not only with the first of it.
fn all<const N: usize>(outcomes: [Result<()>; N]) -> Result<()> {
    let mut errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => {
            let mut texts: Vec<_> = errors.iter().map(|error| format!("{error:#}")).collect();
            // Who prints one error looks for a denial among its causes, which are text here.
            texts.extend(errors.iter().find_map(confinement::remedy_of));
            bail!(texts.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn all_that_failed_is_told() {
        assert!(all([Ok(()), Ok(())]).is_ok());
        let one = all([Ok(()), Err(anyhow!("a rule stays"))]).unwrap_err();
        assert_eq!(one.to_string(), "a rule stays");
        let two = all([Err(anyhow!("a rule stays")), Err(anyhow!("a pin stays"))]).unwrap_err();
        assert_eq!(two.to_string(), "a rule stays; a pin stays");
    }
}
