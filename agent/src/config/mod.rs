//! The configuration: what the operator writes, checked before anything is attached.
//!
//! Every problem of a file is reported at once, each with its line, the reason and the nearest valid
//! form ([`ConfigError`]).

mod agent;
mod carry;
mod consistency;
mod doubts;
mod fields;
mod interfaces;
pub mod keys;
mod lines;
mod loops;
mod place;
mod policy;
mod problem;
mod relay;
mod reveal;
mod section;
mod selector;
mod steer;
mod text;
mod toa;
mod trust;
mod unwrap;
mod value;
mod whole;

use std::{collections::HashSet, net::IpAddr, path::Path};

use toml::de::{DeTable, DeValue};

pub use self::{
    agent::{AccessLogTarget, AgentSettings, LogFormat, Logged, PrefixLengths},
    carry::{CarryNode, CarryToa},
    doubts::Doubt,
    fields::show_ports,
    interfaces::Interfaces,
    loops::{Loop, loops, unwrapped},
    policy::Policy,
    problem::ConfigError,
    relay::{Accept, Balance, Http, Protocol, Relay, Send},
    reveal::{Inexpressible, Reveal},
    selector::Selector,
    steer::Steer,
    text::{DEFAULT, Text},
    toa::Toa,
    trust::{Proxy, Rule, Speakers, Trust, TrustedSenders},
    unwrap::Unwrap,
    whole::Config,
};
use self::{
    problem::Problems,
    relay::LocatedRelay,
    section::{Section, not_a_section, sections},
    steer::LocatedSteer,
    unwrap::LocatedUnwrap,
    value::nearest,
};

/// The sections of the file, each with its keys.
const SECTIONS: [(&str, &[&str]); 9] = [
    ("agent", &agent::KEYS),
    ("trust", &trust::KEYS),
    ("toa", &toa::KEYS),
    ("steer", &steer::KEYS),
    ("reveal", &reveal::KEYS),
    ("carry", &carry::KEYS),
    ("unwrap", &unwrap::KEYS),
    ("relay", &relay::KEYS),
    ("policy", &policy::KEYS),
];

impl Config {
    /// What is valid, and probably not meant.
    pub fn doubts(&self) -> Vec<Doubt> {
        doubts::all(self)
    }

    /// Which relays cannot tell each client to each server. What servers there are decides whether that matters. `own`
    /// has the addresses of this host, in all of its network namespaces.
    pub fn upstream_doubts(&self, own: &HashSet<IpAddr>) -> Vec<Doubt> {
        doubts::upstreams(self, own)
    }

    /// Reads and checks a file; without a path, the default configuration.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Text::read(path)?.config()
    }

    /// Checks the text of a configuration, which errors call `file_name`.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigError> {
        Self::parse_part(text, file_name, Self::check_whole)
    }

    /// Checks a text whose sections are a part of a configuration, or with `check_whole` all of it.
    fn parse_part(
        text: &str,
        file_name: &str,
        check_whole: impl FnOnce(&Self, &[LocatedUnwrap], &mut Problems),
    ) -> Result<Self, ConfigError> {
        let (document, syntax) = DeTable::parse_recoverable(text);
        let mut problems = Problems::default();
        for error in syntax {
            problems.add(error.span().unwrap_or(0..0), error.message(), None);
        }
        // Further checks would find errors only in what the parser made of broken lines.
        problems.done(text, file_name)?;
        let (config, unwraps) = Self::read(document.get_ref(), &mut problems);
        check_whole(&config, &unwraps, &mut problems);
        problems.done(text, file_name)?;
        Ok(config)
    }

    /// Notes what a configuration lacks, and a pod's sections need not have.
    fn check_whole(&self, unwraps: &[LocatedUnwrap], problems: &mut Problems) {
        consistency::unwraps(unwraps, &self.trust, problems);
    }

    /// Checks sections in JSON, which errors call `source` and show as TOML.
    pub fn from_json(value: &serde_json::Value, source: &str) -> Result<Self, ConfigError> {
        let text = toml::to_string(value).map_err(|error| {
            ConfigError::file(source, error.to_string(), "write what TOML can say, too")
        })?;
        Self::parse_part(&text, source, |_, _, _| ())
    }

    fn read(document: &DeTable<'_>, problems: &mut Problems) -> (Self, Vec<LocatedUnwrap>) {
        let mut config = Self::default();
        let mut unwraps = Vec::new();
        let mut trusts = Vec::new();
        let mut steers = Vec::new();
        let mut relays = Vec::new();
        for (key, value) in document {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("agent", DeValue::Table(table)) => {
                    let section = Section::new("[agent]", table, value.span(), &agent::KEYS);
                    config.agent = AgentSettings::read(&section, problems);
                }
                ("trust", DeValue::Table(table)) => trust::refuse(table, value.span(), problems),
                ("trust", _) => {
                    let sections = sections("trust", "[[trust]]", &trust::KEYS, value, problems);
                    trusts = trust::read(&sections, problems);
                }
                ("toa", DeValue::Table(table)) => {
                    let section = Section::new("[toa]", table, value.span(), &toa::KEYS);
                    config.toa = Toa::read(&section, problems);
                }
                ("reveal", DeValue::Table(table)) => {
                    let section = Section::new("[reveal]", table, value.span(), &reveal::KEYS);
                    config.reveal = Reveal::read(&section, problems);
                }
                ("carry", DeValue::Table(table)) => {
                    let section = Section::new("[carry]", table, value.span(), &carry::KEYS);
                    section.refuse_unknown(problems);
                    match section.get("toa").map(|toa| (toa.span(), toa.get_ref())) {
                        None => {}
                        Some((span, DeValue::Table(table))) => {
                            let section =
                                Section::new("[carry.toa]", table, span, &carry::TOA_KEYS);
                            config.carry_toa = CarryToa::read(&section, problems);
                        }
                        Some((span, other)) => not_a_section(span, "carry.toa", other, problems),
                    }
                    if let Some(nodes) = section.get("node") {
                        let (name, header) = ("carry.node", "[[carry.node]]");
                        let sections = sections(name, header, &carry::NODE_KEYS, nodes, problems);
                        let read = |section| CarryNode::read(&section, problems);
                        config.carry_node = sections.into_iter().filter_map(read).collect();
                    }
                }
                (name @ ("agent" | "toa" | "reveal" | "carry"), other) => {
                    not_a_section(value.span(), name, other, problems);
                }
                ("steer", _) => {
                    let sections = sections("steer", "[[steer]]", &steer::KEYS, value, problems);
                    let read = |section| LocatedSteer::read(&section, problems);
                    steers = sections.into_iter().filter_map(read).collect();
                }
                ("unwrap", _) => {
                    let sections = sections("unwrap", "[[unwrap]]", &unwrap::KEYS, value, problems);
                    let read = |section| LocatedUnwrap::read(&section, problems);
                    unwraps = sections.into_iter().filter_map(read).collect();
                }
                ("relay", _) => {
                    let sections = sections("relay", "[[relay]]", &relay::KEYS, value, problems);
                    let read = |section| LocatedRelay::read(&section, problems);
                    relays = sections.into_iter().filter_map(read).collect();
                }
                ("policy", _) => {
                    let sections = sections("policy", "[[policy]]", &policy::KEYS, value, problems);
                    config.policy = policy::read(&sections, problems);
                }
                (name, _) => {
                    let home = SECTIONS.iter().find(|(_, keys)| keys.contains(&name));
                    let nearest = nearest(name, SECTIONS.iter().map(|(name, _)| *name));
                    let (message, hint) = match (home, nearest) {
                        (Some((section, _)), _) => (
                            format!("key `{name}` is outside of its section"),
                            format!("move it below `{}`", header(section)),
                        ),
                        (None, Some(section)) => (
                            format!("unknown section `{name}`, did you mean `{section}`?"),
                            format!("write `{}`", header(section)),
                        ),
                        (None, None) => (
                            format!("unknown section `{name}`"),
                            "the sections are `[agent]`, `[[trust]]`, `[toa]`, `[reveal]`, `[carry.toa]`, `[[carry.node]]`, `[[steer]]`, `[[unwrap]]`, `[[relay]]` and `[[policy]]`"
                                .into(),
                        ),
                    };
                    problems.add(key.span(), message, Some(hint));
                }
            }
        }
        consistency::signatures(&trusts, &config.toa, problems);
        config.trust = trusts.into_iter().map(|located| located.rule).collect();
        let located = unwraps.iter();
        config.unwrap = located.map(|located| located.unwrap.clone()).collect();
        consistency::steers(&steers, problems);
        consistency::relays(&relays, &steers, &config, problems);
        config.steer = steers.into_iter().map(|located| located.steer).collect();
        config.relay = relays.into_iter().map(|located| located.relay).collect();
        (config, unwraps)
    }
}

/// How the file writes the header of a section.
fn header(section: &str) -> String {
    match section {
        "trust" | "steer" | "unwrap" | "relay" | "policy" => format!("[[{section}]]"),
        _ => format!("[{section}]"),
    }
}

#[cfg(test)]
mod tests;
