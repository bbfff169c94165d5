//! `truepeer config`

use std::{
    collections::HashSet,
    io::{Write as _, stderr},
    net::IpAddr,
    path::PathBuf,
};

use anyhow::Result;
use clap::Subcommand;

use super::{output::print, summary};
use crate::{
    config::{DEFAULT, Text},
    doctor,
    host::netns::Netns,
};

/// Check a configuration, or show the default one
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report everything that is wrong with a configuration, and what it does
    ///
    /// Nothing is attached. What the configuration does is printed to standard output, a line for each section; errors and
    /// warnings, each with its line and its remedy, go to standard error. The exit code is 2 if something is wrong, and 0 if
    /// there are warnings only.
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
            let text = Text::read(file.as_deref())?;
            let config = text.config()?;
            let doubts = config.doubts().into_iter();
            let doubts: Vec<_> = doubts.chain(config.upstream_doubts(&own())).collect();
            print(&format!("valid\n{}", summary::of(&config)))?;
            for warning in text.warnings(&doubts) {
                // There is nothing to do if standard error is closed.
                let _ = writeln!(stderr(), "\n{warning}");
            }
            for error in doctor::missing(&config).values() {
                let _ = writeln!(
                    stderr(),
                    "\nnote: this host does not have all of it, and an agent waits: {error:#}"
                );
            }
            Ok(())
        }
    }
}

/// The addresses of this host, in all of the network namespaces that this process may enter.
fn own() -> HashSet<IpAddr> {
    let all = Netns::all().unwrap_or_default().into_iter();
    all.flat_map(|netns| netns.addresses().unwrap_or_default())
        .collect()
}
