//! `truepeer cni`

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use super::output::{log_to_stderr, print};
use crate::cni::install::Node;

/// Install truepeer as a CNI plugin on this node, or remove it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the plugin, and chain it after the plugins of the node's network
    ///
    /// The network is the first configuration in the directory, the one that container runtimes take. What it
    /// was is kept beside it, for `uninstall`. A second time it does nothing.
    #[command(after_help = "\
Examples:
  truepeer cni install
  truepeer cni install --watch                  In a DaemonSet, beside network plugins that come and go")]
    Install(Options),
    /// Remove the plugin, and restore the network's configuration
    ///
    /// What others have changed in it since stays; only truepeer's entry goes.
    #[command(after_help = "Example:\n  truepeer cni uninstall")]
    Uninstall(Options),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Where the runtime looks for plugins
    #[arg(long, value_name = "DIRECTORY", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,

    /// Where the runtime looks for networks
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,

    /// Stay, and do it again whenever somebody else changes a network
    #[arg(long)]
    watch: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    log_to_stderr();
    let (options, act): (_, fn(&Node) -> Result<Vec<String>>) = match &args.command {
        Command::Install(options) => (options, Node::install),
        Command::Uninstall(options) => (options, Node::uninstall),
    };
    let node = Node {
        bin: options.bin_dir.clone(),
        conf: options.conf_dir.clone(),
    };
    let tell = |done: Vec<String>| done.iter().try_for_each(|line| print(&format!("{line}\n")));
    if options.watch {
        return node.watch(|node| tell(act(node)?));
    }
    let done = act(&node)?;
    if done.is_empty() {
        return print("nothing to do\n");
    }
    tell(done)
}
