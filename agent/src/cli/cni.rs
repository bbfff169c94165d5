//! `truepeer cni`

use std::process::ExitCode;

use crate::cni;

/// Be the CNI plugin, as which container runtimes run truepeer
///
/// With CNI_COMMAND in its environment and no arguments, `truepeer` does the same: a copy of it among the runtime's
/// plugins is all that it takes. It speaks versions 0.3.1, 0.4.0, 1.0.0 and 1.1.0 of the CNI specification.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  install truepeer /opt/cni/bin/truepeer
  echo '{\"cniVersion\": \"1.1.0\"}' | CNI_COMMAND=VERSION truepeer cni

An entry for the list of plugins in /etc/cni/net.d, behind those that make the interface:
  {\"type\": \"truepeer\", \"capabilities\": {\"io.kubernetes.cri.pod-annotations\": true}}

It can also have, with these defaults:
  \"socket\": \"/run/truepeer/truepeer.sock\"    of the agent
  \"pods\": \"/var/lib/truepeer/pods\"           as in the agent's configuration
  \"onAgentDown\": \"open\"                      or \"closed\": pods do not start without an agent
  \"steer\": [], \"unwrap\": []                  as [[steer]] and [[unwrap]] of the agent's configuration, for
                                             every pod; without `netns`

A pod's annotations, which go before that:
  truepeer.io/steer-ports: \"8080,9000-9010\"
  truepeer.io/steer-to: \"15006\"
  truepeer.io/unwrap-ports: \"8000\"
  truepeer.io/enabled: \"false\"               the pod is remembered, and left alone")]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> ExitCode {
    cni::main()
}
