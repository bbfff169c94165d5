//! `truepeer cni`

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Subcommand;

use super::output::{log_to_stderr, print};
use crate::{
    cni::{self, install::Node},
    config::LogFormat,
};

/// Act as the CNI plugin, for container runtimes
///
/// With CNI_COMMAND in its environment and no arguments, `truepeer` does the same: a copy of it among the runtime's
/// plugins is all that it takes. It speaks versions 0.3.1, 0.4.0, 1.0.0 and 1.1.0 of the CNI specification.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  truepeer cni install
  echo '{\"cniVersion\": \"1.1.0\"}' | CNI_COMMAND=VERSION truepeer cni

An entry for the list of plugins in /etc/cni/net.d, behind those that make the interface:
  {\"type\": \"truepeer\", \"capabilities\": {\"io.kubernetes.cri.pod-annotations\": true}}

It can also have, with these defaults:
  \"socket\": \"/run/truepeer/truepeer.sock\"    of the agent
  \"pods\": \"/var/lib/truepeer/pods\"           as in the agent's configuration
  \"onAgentDown\": \"open\"                      or \"closed\": pods do not start without an agent
  \"steer\": [], \"unwrap\": []                  as [[steer]] and [[unwrap]] in the agent's
                                             configuration, for every pod; without `netns`

A pod's annotations, which take precedence:
  truepeer.io/steer-ports: \"8080,9000-9010\"
  truepeer.io/steer-to: \"15006\"
  truepeer.io/unwrap-ports: \"8000\"
  truepeer.io/enabled: \"false\"               the pod is remembered, and left alone")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the plugin, and chain it after the plugins of the node's network
    ///
    /// The network is the first configuration in the directory, the one that container runtimes take. The
    /// original is kept beside it, for `uninstall`. Run again, it does nothing.
    #[command(after_help = "\
Examples:
  truepeer cni install
  truepeer cni install --watch      In a DaemonSet, beside network plugins that come and go")]
    Install {
        #[command(flatten)]
        options: Options,

        /// The plugin's entry in the network's list, as a file; without it, the one that `truepeer cni --help` shows
        #[arg(long, value_name = "FILE")]
        entry: Option<PathBuf>,
    },
    /// Remove the plugin and what it knows of pods, and restore the network's configuration
    ///
    /// What others have changed in it since stays; only truepeer's entry goes.
    #[command(after_help = "Example:\n  truepeer cni uninstall")]
    Uninstall {
        #[command(flatten)]
        options: Options,

        /// What the plugin knows of pods
        #[arg(
            long,
            value_name = "DIRECTORY",
            default_value = "/var/lib/truepeer/pods"
        )]
        pods_dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Where the runtime looks for plugins
    #[arg(long, value_name = "DIRECTORY", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,

    /// Where the runtime looks for networks
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,

    /// Stay until SIGTERM, and do it again whenever somebody else changes a network or the plugin; of several, the latest does
    #[arg(long)]
    watch: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let Some(command) = &args.command else {
        return Ok(cni::main());
    };
    log_to_stderr(LogFormat::Text);
    match command {
        Command::Install { options, entry } => {
            let entry = cni::install::entry(entry.as_deref())?;
            options.repeat(|node| node.install(&entry))?;
        }
        Command::Uninstall { options, pods_dir } => {
            // The directory must stay until the agent that serves these pods has gone, and for a pod that installs again.
            if options.repeat(Node::uninstall)? {
                cni::install::forget(pods_dir)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Options {
    /// Acts once or until SIGTERM, and prints what was done. Returns whether nobody else acts since.
    fn repeat(&self, act: impl Fn(&Node) -> Result<Vec<String>>) -> Result<bool> {
        let node = Node {
            bin: self.bin_dir.clone(),
            conf: self.conf_dir.clone(),
        };
        let act = |node: &Node| {
            let done = act(node)?;
            done.iter().try_for_each(|line| print(&format!("{line}\n")))
        };
        if self.watch {
            node.watch(act)
        } else {
            act(&node).map(|()| true)
        }
    }
}
