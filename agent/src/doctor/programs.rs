//! Whether this kernel accepts every BPF program. It loads each and attaches none.

use std::collections::BTreeSet;

use super::check::{Check, Outcome};
use crate::{
    config::Config,
    datapath::{self, Purpose, Section},
};

const NAME: &str = "programs";

/// Tries to load the programs, unless prerequisites are missing. Warns of those that `config` does not need.
pub(super) fn check(host_is_fit: bool, config: &Config) -> Vec<Check> {
    if !host_is_fit {
        let reason = "not tried: something that they need is missing";
        let consequence = "it is unknown whether this kernel takes the data path";
        let remedy = "see to what fails above first";
        return vec![Check::wrong(
            Outcome::Fail,
            NAME,
            reason,
            consequence,
            remedy,
        )];
    }
    let tried = match datapath::try_all() {
        Ok(tried) => tried,
        Err(error) => return vec![Check::failed(NAME, &error)],
    };
    let needed = needed(config);
    let number = tried.len();
    let mut checks: Vec<_> = tried
        .into_iter()
        .filter_map(|(purpose, loaded)| Some(refused(purpose, &needed, &loaded.err()?)))
        .collect();
    if checks.is_empty() {
        checks.push(Check::ok(NAME, format!("this kernel takes all {number}")));
    }
    checks
}

/// The finding that the kernel refuses a program.
fn refused(purpose: Purpose, needed: &BTreeSet<Section>, error: &anyhow::Error) -> Check {
    let is_needed = purpose
        .section
        .is_none_or(|section| needed.contains(&section));
    let outcome = if is_needed {
        Outcome::Fail
    } else {
        Outcome::Warn
    };
    let remedy = match purpose.section {
        Some(section) => format!(
            "install a newer kernel, or do without {section}; `truepeer run --partial` leaves out what the kernel \
             refuses"
        ),
        None => "install a newer kernel".to_owned(),
    };
    Check::wrong(
        outcome,
        NAME,
        format!("{error:#}"),
        purpose.consequence,
        remedy,
    )
}

/// The sections of the configuration that need programs of their own.
fn needed(config: &Config) -> BTreeSet<Section> {
    let steers =
        !config.steer.is_empty() || config.relay.iter().any(|relay| relay.route().is_some());
    [
        (Section::Steer, steers),
        (Section::Unwrap, !config.unwrap.is_empty()),
        (Section::CarryNode, !config.carry_node.is_empty()),
        (Section::Policy, !config.policy.is_empty()),
        (Section::Bind, config.trust.has_proxies()),
        (Section::Reveal, config.reveal.enabled),
    ]
    .into_iter()
    .filter_map(|(section, is_needed)| is_needed.then_some(section))
    .collect()
}
