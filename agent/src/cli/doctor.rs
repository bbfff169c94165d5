//! `truepeer doctor`

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use hyper::Method;
use serde::Deserialize;
use tokio::{runtime::Builder, time::timeout};

use super::{
    arguments::{ConfigArgs, OutputArgs},
    output::{Format, print, print_json},
};
use crate::{
    api::{AgentReport, client},
    config::Config,
    doctor::{self, Check, Life, Outcome},
};

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Report what works on this host and what does not
///
/// Each problem comes with its consequence and its remedy. The exit code is 1 if a check failed: truepeer does not
/// work, or not all of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  truepeer doctor --pre                           Before anything is configured
  truepeer doctor --config /etc/truepeer.toml     With what the configuration needs
  truepeer doctor -o json | jq '.[] | select(.outcome != \"ok\")'")]
pub(super) struct Args {
    /// Check only what can be checked before truepeer is configured and running
    #[arg(long)]
    pre: bool,

    #[command(flatten)]
    config: ConfigArgs,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.config.load()?;
    let checks = doctor::run(args.pre, &config, || life(&config));
    match args.output.output {
        Format::Json => print_json(&checks)?,
        Format::Table => print(&text(&checks))?,
    }
    let has_failed = checks.iter().any(|check| check.outcome == Outcome::Fail);
    Ok(ExitCode::from(u8::from(has_failed)))
}

/// Asks at the agent's socket.
fn life(config: &Config) -> Life {
    let ask = || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let asked = client::ask(&config.agent.socket, Method::GET, "/v1/status");
        let asked = async { timeout(PATIENCE, asked).await };
        let answer = runtime.block_on(asked);
        answer.with_context(|| format!("it has not answered for {} s", PATIENCE.as_secs()))?
    };
    let agent = match ask() {
        Ok(None) => return Life::Gone,
        Ok(Some(reply)) => serde_json::from_slice(&reply.body)
            .map(|report: Report| report.agent)
            .map_err(|_| reply.reason()),
        Err(error) => Err(format!("{error:#}")),
    };
    match agent {
        Ok(AgentReport {
            version,
            pid,
            ready,
            put_back,
            ..
        }) => Life::Answers {
            version,
            pid,
            ready,
            put_back,
        },
        Err(why) => Life::Silent(why),
    }
}

/// What `/v1/status` says, as far as it is about the agent itself.
#[derive(Deserialize)]
struct Report {
    agent: AgentReport,
}

/// A line for each check and, below each that found something wrong, its consequence and its remedy.
fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.chars().count()).max();
    let width = width.unwrap_or_default();
    let mut text = String::new();
    for check in checks {
        let mark = match check.outcome {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        text += &format!("{mark:<4}  {:<width$}  {}\n", check.name, check.reason);
        for (title, words) in [("so", &check.consequence), ("do", &check.remedy)] {
            if !words.is_empty() {
                text += &format!("      {:<width$}  {title}: {words}\n", "");
            }
        }
    }
    let count = |outcome| checks.iter().filter(|c| c.outcome == outcome).count();
    let (failed, warnings) = (count(Outcome::Fail), count(Outcome::Warn));
    text + &format!(
        "\n{} checks, {failed} failed, {warnings} warnings\n",
        checks.len()
    )
}
