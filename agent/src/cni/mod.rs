//! The CNI plugin: it keeps a file for each attachment of a pod, and asks the agent to take it up.
//!
//! It follows the CNI specification, versions 0.3.1 to 1.1.0: parameters in the environment
//! ([`environment`]), the network's configuration on standard input ([`netconf`]), results and errors
//! ([`error`]) as JSON on standard output. In the list of plugins, it stands behind those that make a pod's interface,
//! and passes their result on.

mod add;
mod ask;
mod commands;
mod environment;
mod error;
pub mod install;
mod netconf;
mod overlay;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _, stdin, stdout},
    process::ExitCode,
};

use anyhow::anyhow;
use serde_json::json;

use self::{
    environment::Environment,
    error::Code,
    netconf::{LATEST, SUPPORTED},
};
pub use self::{
    environment::{COMMAND, Command},
    error::Error,
    netconf::NetConf,
};

use crate::workloads::pods::Sections;

/// Runs the command in the environment with the configuration on standard input.
pub fn main() -> ExitCode {
    let mut version = LATEST.to_owned();
    let (output, code) = match run(&mut version) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (error.to_json(&version), ExitCode::FAILURE),
    };
    // If standard output is closed, the runtime still has the exit code.
    let _ = stdout().write_all(output.as_bytes());
    code
}

/// The steers and unwraps that a pod's annotations ask for without a network's configuration.
///
/// # Errors
///
/// When an annotation is unknown or invalid.
pub fn read_annotations(
    annotations: &BTreeMap<String, String>,
) -> anyhow::Result<(Sections, Sections)> {
    let none = Sections::new();
    overlay::lay_over(annotations, &none, &none).map_err(|error| anyhow!("{error}"))
}

/// Runs the command, and returns what to print. Sets `version` to that of the input as soon as it is known.
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
        return versions(&input, version);
    }
    let environment = Environment::read(command)?;
    let network = NetConf::parse(&input, command, version)?;
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

/// VERSION: the versions of the specification that the plugin supports. It repeats that of the input, supported or not.
fn versions(input: &[u8], version: &mut String) -> Result<String, Error> {
    if !input.trim_ascii().is_empty() {
        *version = netconf::version(input)?;
    }
    Ok(json!({"cniVersion": version, "supportedVersions": SUPPORTED}).to_string())
}
