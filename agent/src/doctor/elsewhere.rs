//! Ports with unwrap whose connections no socket here takes.

use super::check::{Check, Outcome};
use crate::{config::Config, datapath::Pins};

/// What the data path has seen, if it is in place.
pub(super) fn check(config: &Config) -> Vec<Check> {
    if config.unwrap.is_empty() {
        return Vec::new();
    }
    let seen = Pins::new(&config.agent.bpffs).elsewhere();
    let servers = seen.unwrap_or_default().into_iter();
    let told = servers.map(|server| {
        Check::wrong(
            Outcome::Warn,
            "[[unwrap]]",
            format!("netfilter sends connections to {server} elsewhere (DNAT, REDIRECT), as their answers showed"),
            "they pass untouched, with their PROXY headers",
            "take the headers off where they go, or leave the port out",
        )
    });
    told.collect()
}
