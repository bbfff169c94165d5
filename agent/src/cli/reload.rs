//! `truepeer reload`

use anyhow::{Context as _, Result, bail};
use hyper::Method;
use tokio::runtime;

use super::{arguments::ConfigArgs, output::print};
use crate::api::{Reloaded, client};

/// Have the agent read its configuration again, and wait until it has
///
/// It takes up the whole file, but for `[agent]`, which takes a new start, or nothing: then this command fails with the reason,
/// and all goes on as before. SIGHUP does the same, and only the agent's log tells the outcome.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  truepeer reload
  truepeer reload --config /etc/truepeer.toml     If the agent was started with it")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let socket = args.config.load()?.agent.socket;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(client::ask(&socket, Method::POST, "/v1/reload"))?;
    let answer = answer.with_context(|| {
        format!(
            "no agent answers at {}: changes below [agent] take a new start",
            socket.display()
        )
    })?;
    if !answer.status.is_success() {
        bail!(answer.reason());
    }
    // An agent of another version may not say it.
    let reloaded = serde_json::from_slice(&answer.body);
    print(match reloaded {
        Ok(Reloaded { needs_start: true }) => {
            "configuration read again; changes below [agent] take effect at the next start\n"
        }
        _ => "configuration read again\n",
    })
}
