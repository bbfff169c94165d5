//! `truepeer completions`

use anyhow::Result;
use clap::Command;
use clap_complete::Shell;

use super::output::print;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  truepeer completions bash > /etc/bash_completion.d/truepeer
  truepeer completions fish > ~/.config/fish/completions/truepeer.fish")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

/// Prints completions for the command line `cli`.
pub(super) fn run(args: &Args, mut cli: Command) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "truepeer", &mut text);
    print(&String::from_utf8(text)?)
}
