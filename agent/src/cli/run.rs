//! `truepeer run`

use anyhow::Result;

use super::{arguments::ConfigArgs, output::log_to_stderr, privileges};
use crate::daemon::{self, Partial};

/// Run the agent in the foreground
///
/// It attaches what the configuration says and serves until SIGTERM or Ctrl-C; then it lets
/// connections in progress end, and removes everything. SIGHUP reads the configuration again,
/// as `truepeer reload` does. RUST_LOG
/// sets how much it logs to standard error, such as RUST_LOG=debug.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  truepeer run                                The default configuration, which steers nothing
  truepeer run --config /etc/truepeer.toml")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,

    /// Let everything but relays go on when the agent stops, as `keep` in the configuration does
    #[arg(long)]
    keep: bool,

    /// Follow the agent that runs without a gap: take over its relays' sockets and have it serve only what they have begun
    #[arg(long)]
    takeover: bool,

    /// Leave out what this kernel refuses, and do the rest; without it, the agent does not start
    #[arg(long)]
    partial: bool,
}

pub(super) fn run(args: Args) -> Result<()> {
    let read = move || {
        let mut config = args.config.load()?;
        config.agent.keep |= args.keep;
        Ok(config)
    };
    // Mistakes in the configuration come first: they need no privileges to be found.
    let format = read()?.agent.log;
    privileges::require("run")?;
    log_to_stderr(format);
    let partial = args.partial.then(Partial::find).transpose()?;
    let load = move || {
        let mut config = read()?;
        if let Some(partial) = &partial {
            partial.reduce(&mut config);
        }
        Ok(config)
    };
    let config = load()?;
    tokio::runtime::Runtime::new()?.block_on(daemon::run(config, Box::new(load), args.takeover))
}
