//! The sections `[[policy]]`.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use agent_common::guard::{MAX_POLICIES, MAX_PREFIXES, Verdict};
use agent_common::origin::rule_id;
use ipnet::IpNet;

use super::fields::{Names, ports, show_ports};
use super::problem::Problems;
use super::section::Section;
use super::value::Located;

pub(super) const KEYS: [&str; 4] = ["name", "ports", "allow", "deny"];

/// Which clients may connect to some ports of this host. The longest prefix that contains the client decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name in output; unique. The ports are its name unless the configuration gives another.
    pub name: String,
    /// The servers' ports, in every network namespace.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Each prefix, once, with the verdict on its clients.
    pub prefixes: Vec<(IpNet, Verdict)>,
    /// The verdict on clients in none of the prefixes.
    pub otherwise: Verdict,
}

impl Policy {
    /// Beginning of a policy's rule, before the name.
    pub const PREFIX: &str = "policy ";

    /// Name of the rule by which a record of a refused connection refers to the policy.
    pub fn rule(&self) -> String {
        rule(&self.name)
    }
}

fn rule(name: &str) -> String {
    format!("{}{name}", Policy::PREFIX)
}

/// Reads all sections `[[policy]]`.
pub(super) fn read(sections: &[Section<'_, '_>], problems: &mut Problems) -> Vec<Policy> {
    let mut names = Names::of("policies");
    let mut owners = HashMap::new();
    let policies: Vec<Policy> = sections
        .iter()
        .map(|section| {
            section.refuse_unknown(problems);
            let ports = ports(section, problems);
            let name = name(section, &ports, &mut names, problems);
            let allowed = section.get("allow").is_some();
            let prefixes = prefixes(section, problems);
            claim_ports(&mut owners, &ports, &name, problems);
            Policy {
                name,
                ports: ports.into_iter().map(|(range, _)| range).collect(),
                prefixes,
                otherwise: if allowed {
                    Verdict::Deny
                } else {
                    Verdict::Allow
                },
            }
        })
        .collect();
    size(sections, &policies, problems);
    policies
}

/// The policy's name. Notes a name that an earlier policy has.
fn name(
    section: &Section<'_, '_>,
    ports: &[Located<RangeInclusive<u16>>],
    names: &mut Names,
    problems: &mut Problems,
) -> String {
    let (name, span) = match section.string("name", problems) {
        Some((name, span)) => (name.to_owned(), span),
        None => {
            let texts: Vec<_> = ports.iter().map(|(range, _)| show_ports(range)).collect();
            (texts.join(","), section.span.clone())
        }
    };
    if name.trim().is_empty() {
        if section.get("name").is_some() {
            let hint = "write \"no-guests\", for example, or leave `name` out";
            problems.add(span, "`name` is empty", Some(hint.into()));
        }
        return name;
    }
    names.add(rule_id(&rule(&name)), &name, span, problems);
    name
}

/// The policy's prefixes with their verdicts. Notes a prefix that is both allowed and denied.
fn prefixes(section: &Section<'_, '_>, problems: &mut Problems) -> Vec<(IpNet, Verdict)> {
    let mut prefixes = Vec::new();
    let mut seen = HashMap::new();
    for (key, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        for (prefix, span) in section.located_prefixes(key, problems) {
            match seen.insert(prefix, verdict) {
                None => prefixes.push((prefix, verdict)),
                Some(earlier) if earlier == verdict => {}
                Some(_) => problems.add(
                    span,
                    format!("{prefix} is in both `allow` and `deny`"),
                    Some(
                        "take it out of one of the two; of different lengths, the longest decides"
                            .into(),
                    ),
                ),
            }
        }
    }
    let is_there = |key| section.get(key).is_some();
    if !is_there("allow") && !is_there("deny") {
        problems.add(
            section.span.clone(),
            "[[policy]] has neither `allow` nor `deny`: it would decide nothing",
            Some("add a line such as `deny = [\"203.0.113.0/24\"]`".into()),
        );
    }
    section.refuse_empty(
        "allow",
        "nobody would be allowed",
        "to mean that, write `deny = [\"0.0.0.0/0\", \"::/0\"]` instead",
        problems,
    );
    section.refuse_empty(
        "deny",
        "nobody would be denied",
        "leave it out, or name a prefix",
        problems,
    );
    prefixes
}

/// Makes the ports the policy's. Notes those that an earlier policy has, and those that this one names twice.
fn claim_ports(
    owners: &mut HashMap<u16, String>,
    ports: &[Located<RangeInclusive<u16>>],
    name: &str,
    problems: &mut Problems,
) {
    for (range, span) in ports {
        let taken: Vec<(u16, String)> = range
            .clone()
            .filter_map(|port| Some((port, owners.insert(port, name.to_owned())?)))
            .collect();
        let (Some((first, owner)), Some((last, _))) = (taken.first(), taken.last()) else {
            continue;
        };
        let ports = show_ports(&(*first..=*last));
        let message = if owner == name {
            format!("policy \"{name}\" names {ports} twice")
        } else {
            format!("policies \"{owner}\" and \"{name}\" both decide on {ports}")
        };
        let hint = format!("take {ports} out of one of the two, or join the policies");
        problems.add(span.clone(), message, Some(hint));
    }
}

/// Notes it if all policies together are too large for the data path.
fn size(sections: &[Section<'_, '_>], policies: &[Policy], problems: &mut Problems) {
    let prefixes: usize = policies.iter().map(|policy| policy.prefixes.len()).sum();
    for (number, what, most) in [
        (policies.len(), "policies", MAX_POLICIES),
        (prefixes, "prefixes of policies", MAX_PREFIXES),
    ] {
        if number > most as usize
            && let Some(last) = sections.last()
        {
            problems.add(
                last.span.clone(),
                format!("there are {number} {what}, {most} are possible"),
                Some("join ports or neighbouring prefixes".into()),
            );
        }
    }
}
