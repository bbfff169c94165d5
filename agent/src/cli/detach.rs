//! `truepeer detach`

use anyhow::Result;

use super::{arguments::ConfigArgs, output::print, privileges};
use crate::{api, daemon};

/// Remove everything that truepeer has installed on this host
///
/// Programs, maps, routing rules, routes and sysctls that an agent has left behind. An agent that runs
/// must be stopped first, and does the same when it stops.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  truepeer detach
  truepeer detach --config /etc/truepeer.toml     If the agent was started with it")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let config = args.config.load()?;
    privileges::require("detach")?;
    daemon::detach(&config)?;
    api::remove_stale(&config.agent.socket)?;
    print("nothing of truepeer is left on this host\n")
}
