//! `truepeer config`

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use super::output::print;
use crate::{
    config::{Config, DEFAULT, Doubt},
    doctor,
};

/// Check a configuration, or show the default one
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report everything that is wrong with a configuration
    ///
    /// Nothing is attached. The exit code is 2 if something is wrong, and 0 if there are warnings only.
    #[command(after_help = "Example:\n  truepeer config check truepeer.toml")]
    Check {
        /// The file; without it, the default configuration
        file: Option<PathBuf>,
    },
    /// Print the default configuration, with every setting explained
    #[command(after_help = "Example:\n  truepeer config default > truepeer.toml")]
    Default,
}

pub(super) fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Default => print(DEFAULT),
        Command::Check { file } => {
            let config = Config::load(file.as_deref())?;
            let names: Vec<_> = config.steer.iter().map(|s| s.name.as_str()).collect();
            let steers = match names.as_slice() {
                [] => "nothing is steered".into(),
                [name] => format!("1 steer, {name}"),
                names => format!("{} steers, {}", names.len(), names.join(", ")),
            };
            let doubts = config
                .doubts()
                .into_iter()
                .chain(config.inexpressible_doubts());
            let warnings: String = doubts.map(|doubt| warning(&doubt)).collect();
            let missing = doctor::missing(&config).into_values();
            let missing: String = missing
                .map(|error| {
                    format!(
                        "note: this host does not have all of it, and an agent waits: {error:#}\n"
                    )
                })
                .collect();
            print(&format!("valid: {steers}\n{warnings}{missing}"))
        }
    }
}

/// What probably is not meant, as a compiler shows it.
fn warning(doubt: &Doubt) -> String {
    let Doubt {
        section,
        reason,
        consequence,
        remedy,
    } = doubt;
    format!("warning: {section}: {reason}: {consequence}\n  = help: {remedy}\n")
}
