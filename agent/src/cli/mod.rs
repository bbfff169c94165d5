//! The command line, one file a command. Nouns read and never change anything; verbs change.

mod arguments;
mod cni;
mod completions;
mod config;
mod detach;
mod doctor;
mod man;
mod output;
mod peer;
mod peers;
mod privileges;
mod reader;
mod reload;
mod run;
mod status;
mod summary;

use std::{
    env,
    io::{Write as _, stderr},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};

use self::output::StdoutClosed;
use crate::config::ConfigError;

const EXAMPLES: &str = "\
Examples:
  truepeer doctor --pre                         Can this host do it?
  truepeer config default > truepeer.toml       A configuration to start from
  truepeer run --config truepeer.toml           The agent, until Ctrl-C
  truepeer peers                                Who is connected, really
  curl --unix-socket /run/truepeer/truepeer.sock http://localhost/v1/peers

Exit codes: 0 all is well, 1 it failed or the connection is unknown, 2 the command line or the
configuration is wrong.";

/// Keeps the client's address of connections that pass a proxy, a load balancer or a NAT.
#[derive(Debug, Parser)]
#[command(name = "truepeer", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Reload(reload::Args),
    Peers(peers::Args),
    Peer(peer::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    Cni(cni::Args),
    Config(config::Args),
    Detach(detach::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the command of the command line. Without arguments but with `CNI_COMMAND` set, it is the CNI plugin.
pub fn main() -> ExitCode {
    if env::var_os(crate::cni::COMMAND).is_some() && env::args_os().len() == 1 {
        return crate::cni::main();
    }
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Reload(args) => reload::run(&args),
        Command::Peers(args) => peers::run(&args),
        Command::Peer(args) => peer::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Doctor(args) => return exit(doctor::run(&args)),
        Command::Cni(args) => return exit(cni::run(&args)),
        Command::Config(args) => config::run(&args),
        Command::Detach(args) => detach::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    };
    exit(outcome.map(|()| ExitCode::SUCCESS))
}

/// The exit code of an outcome, after reporting an error.
fn exit(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    let error = match outcome {
        Ok(code) => return code,
        // A reader such as `head` needs no more.
        Err(error) if error.is::<StdoutClosed>() => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    // There is nothing to do if standard error is closed too.
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        let _ = writeln!(stderr(), "{error}");
        return ExitCode::from(2);
    }
    output::tell(&error);
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_connection_is_named_by_its_cookie_or_its_ends() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("truepeer peer --cookie 1").is_ok());
        assert!(parse("truepeer peer --local 192.0.2.1:1 --remote [::1]:2").is_ok());
        for wrong in [
            "truepeer peer",
            "truepeer peer --local 192.0.2.1:1",
            "truepeer peer --cookie 1 --local 192.0.2.1:1",
            "truepeer peer --cookie x",
            "truepeer peers -o yaml",
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
