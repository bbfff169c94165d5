//! `truepeer doctor`

use std::process::ExitCode;

use anyhow::Result;
use hyper::Method;
use serde::Deserialize;
use tokio::runtime;

use super::{
    arguments::{ConfigArgs, OutputArgs},
    output::{Format, print, print_json},
};
use crate::{
    api::{AgentReport, client},
    config::Config,
    doctor::{self, Check, Outcome},
    observe::upkeep::PutBack,
};

/// Report what works on this host and what does not
///
/// Each problem comes with its consequence and its remedy. The exit code is 1 if truepeer would not
/// work.
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
    let mut checks = doctor::run(args.pre, &config);
    if !args.pre {
        checks.extend(doctor::put_back(&put_back(&config)?));
    }
    match args.output.output {
        Format::Json => print_json(&checks)?,
        Format::Table => print(&text(&checks))?,
    }
    let has_failed = checks.iter().any(|check| check.outcome == Outcome::Fail);
    Ok(ExitCode::from(u8::from(has_failed)))
}

/// What the agent had to put back, if one runs and tells.
fn put_back(config: &Config) -> Result<Vec<PutBack>> {
    #[derive(Deserialize)]
    struct Known {
        agent: AgentReport,
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asked = client::ask(&config.agent.socket, Method::GET, "/v1/status");
    let reply = runtime.block_on(asked).ok().flatten();
    let known = reply.and_then(|reply| serde_json::from_slice(&reply.body).ok());
    Ok(known.map_or_else(Vec::new, |known: Known| known.agent.put_back))
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
