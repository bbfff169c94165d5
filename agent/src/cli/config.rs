//! `truepeer config`

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use super::output::print;
use crate::config::{Config, DEFAULT};

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
    /// Nothing is attached. The exit code is 2 if something is wrong.
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
            print(&format!("valid: {steers}\n"))
        }
    }
}
