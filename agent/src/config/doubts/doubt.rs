//! A doubt, and what several need to find or tell it.

use std::ops::RangeInclusive;

use agent_common::trust::Statement;

use super::super::{fields::show_ports, place::Place, trust::Trust};

/// Something in a valid configuration that probably is not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The section that it is about.
    pub section: String,
    /// What is odd.
    pub reason: String,
    /// What follows.
    pub consequence: String,
    /// What to do about it.
    pub remedy: String,
    /// Where it is written.
    pub(crate) place: Place,
}

impl Doubt {
    pub(super) fn new(
        section: impl Into<String>,
        place: Place,
        reason: impl Into<String>,
        consequence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            section: section.into(),
            reason: reason.into(),
            consequence: consequence.into(),
            remedy: remedy.into(),
            place,
        }
    }
}

/// Whether a rule believes a statement on connections to this port.
pub(super) fn is_believed(trust: &[Trust], statement: Statement, port: u16) -> bool {
    let believes = |rule: &Trust| rule.believes(statement) && rule.concerns(port);
    trust.iter().any(believes)
}

/// Ports as people write them: `port 80`, `ports 80, 8000-8010`.
pub(super) fn show(ports: &[u16]) -> String {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(port) => *last = *last.start()..=port,
            _ => ranges.push(port..=port),
        }
    }
    let shown: Vec<String> = ranges.iter().map(show_ports).collect();
    let word = if ports.len() == 1 { "port" } else { "ports" };
    format!("{word} {}", shown.join(", "))
}
