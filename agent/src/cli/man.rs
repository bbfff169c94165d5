//! `truepeer man`

use anyhow::{Context as _, Result};
use clap::Command;
use clap_mangen::Man;

use super::output::print;

/// Print the manual page
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  truepeer man | man -l -
  truepeer man config check | man -l -")]
pub(super) struct Args {
    /// Of this command; without it, of truepeer as a whole
    command: Vec<String>,
}

/// Prints a page of the manual for the command line `cli`.
pub(super) fn run(args: &Args, cli: Command) -> Result<()> {
    let mut page = cli;
    // This gives the commands their full names.
    page.build();
    for name in &args.command {
        page = page
            .find_subcommand(name)
            .with_context(|| format!("there is no command `{name}`: see `truepeer --help`"))?
            .clone();
    }
    let mut text = Vec::new();
    Man::new(page).render(&mut text)?;
    print(&String::from_utf8(text)?)
}
