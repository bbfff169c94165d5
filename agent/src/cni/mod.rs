//! The CNI plugin: remembers the pods of a container runtime, and has the agent take them up.
//!
//! It follows the CNI specification, versions 0.3.1 to 1.1.0: parameters in the environment
//! ([`environment`]), the network's configuration on standard input ([`network`]), results and errors
//! ([`error`]) as JSON on standard output. It is chained after the plugins that make a pod's interface, and
//! passes their result on.

mod add;
mod annotations;
mod ask;
mod commands;
mod environment;
mod error;
pub mod install;
mod network;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _, stdin, stdout},
    process::ExitCode,
};

use anyhow::anyhow;
use serde_json::json;

use self::{
    environment::{Command, Environment},
    error::{Code, Error},
    network::{LATEST, Network, SUPPORTED},
};

use crate::workloads::pods::Sections;

/// The variable that says what a plugin is to do.
pub const COMMAND: &str = "CNI_COMMAND";

/// Does what environment and standard input say.
pub fn main() -> ExitCode {
    let mut version = LATEST.to_owned();
    let (output, code) = match run(&mut version) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (error.to_json(&version), ExitCode::FAILURE),
    };
    // Without standard output, the runtime has the exit code.
    let _ = stdout().write_all(output.as_bytes());
    code
}

/// The steers and unwraps that a pod's annotations alone ask for.
///
/// # Errors
///
/// When an annotation is unknown, or wrong.
pub fn read_annotations(
    annotations: &BTreeMap<String, String>,
) -> anyhow::Result<(Sections, Sections)> {
    let none = Sections::new();
    annotations::lay_over(annotations, &none, &none).map_err(|error| anyhow!("{error}"))
}

/// What is to be printed. `version` becomes that of the input as soon as it is known.
fn run(version: &mut String) -> Result<String, Error> {
    let command = environment::command()?;
    let mut input = Vec::new();
    stdin().read_to_end(&mut input).map_err(|error| {
        Error::new(
            Code::Io,
            "cannot read the network configuration from standard input",
            error,
        )
    })?;
    if command == Command::Version {
        return probe(&input, version);
    }
    let environment = Environment::read(command)?;
    let network = Network::parse(&input, command, version)?;
    match command {
        Command::Add => return add::add(&environment, &network),
        Command::Check => commands::check(&environment, &network)?,
        Command::Del => commands::del(&environment, &network),
        Command::Gc => commands::gc(&network)?,
        Command::Status => commands::status(&network)?,
        Command::Version => unreachable!("answered above"),
    }
    Ok(String::new())
}

/// Tells the versions of the specification that are spoken. The input's is repeated, whether or not it is.
fn probe(input: &[u8], version: &mut String) -> Result<String, Error> {
    if !input.trim_ascii().is_empty() {
        *version = network::version(input)?;
    }
    Ok(json!({"cniVersion": version, "supportedVersions": SUPPORTED}).to_string())
}
