//! Agents of two hosts, of which one tells the other by TOA who the client is.

use std::path::Path;

use anyhow::Result;

use super::config::{Carry, CarryToa, Config, Reveal, Trust};
use super::running::Agent;

/// An agent for the sender's host, which tells these networks in whose name the test itself connects, and reveals
/// nothing.
pub fn telling(directory: &Path, to: Vec<String>) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.push(Trust::uid(0).reach("carry"));
    config.reveal = Reveal {
        enabled: false,
        ..Reveal::default()
    };
    config.carry = Some(Carry {
        toa: CarryToa {
            to,
            ..CarryToa::default()
        },
        ..Carry::default()
    });
    Agent::start(directory, config)
}

/// An agent for the application's host, which believes the TOA of these networks.
pub fn believing(directory: &Path, sources: Vec<String>) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.extend(Trust::saying(&["toa"], sources));
    Agent::start(directory, config)
}
