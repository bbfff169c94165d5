//! Whether this kernel accepts every BPF program. It loads each and attaches none.

use std::collections::BTreeSet;

use super::check::{Check, Outcome};
use crate::{
    config::Config,
    datapath::{self, Cost, Purpose, Section},
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
    let mut checks = Vec::new();
    let mut taken: Vec<(Option<Section>, Vec<String>)> = Vec::new();
    for (purpose, loaded) in tried {
        match loaded {
            Err(error) => checks.push(refused(purpose, &needed, &error)),
            Ok(cost) => {
                let text = describe(purpose.program, cost);
                match taken
                    .iter_mut()
                    .find(|(known, _)| *known == purpose.section)
                {
                    Some((_, texts)) => texts.push(text),
                    None => taken.push((purpose.section, vec![text])),
                }
            }
        }
    }
    checks.extend(taken.into_iter().map(|(section, texts)| {
        let section = section.map_or_else(|| "the agent".to_owned(), |s| s.to_string());
        Check::ok(NAME, format!("of {section}: {}", texts.join(", ")))
    }));
    checks
}

/// A program that the kernel takes, with what that cost.
fn describe(program: &str, cost: Cost) -> String {
    let took = cost.took.as_millis();
    match cost.instructions {
        Some(instructions) => {
            format!("{program} ({instructions} instructions verified, {took} ms)")
        }
        None => format!("{program} ({took} ms)"),
    }
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
pub(super) fn needed(config: &Config) -> BTreeSet<Section> {
    let steers =
        !config.steer.is_empty() || config.relay.iter().any(|relay| relay.route().is_some());
    [
        (Section::Steer, steers),
        (Section::Unwrap, !config.unwrap.is_empty()),
        (Section::CarryNode, !config.carry_node.is_empty()),
        (Section::Policy, !config.policy.is_empty()),
        (
            Section::Bind,
            config.believes_proxies() || config.watches_relays(),
        ),
        (Section::Toa, !config.kinds().is_empty()),
        (Section::Reveal, config.reveal.enabled),
    ]
    .into_iter()
    .filter_map(|(section, is_needed)| is_needed.then_some(section))
    .collect()
}
