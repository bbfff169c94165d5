//! A rule, and what output calls it.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use agent_common::{
    origin::rule_id,
    trust::{Reach, Statement},
};
use ipnet::IpNet;

/// A rule about who may speak for a client: what is believed of whom, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Its name in output; unique. Without one, each speaker is told by itself.
    pub name: Option<String>,
    /// Who is believed.
    pub speakers: Speakers,
    /// The ports to which connections must go; empty: any.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// Who is believed by a rule, and about what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speakers {
    /// Whoever sends from these prefixes.
    Sources {
        /// The prefixes.
        prefixes: Vec<IpNet>,
        /// What is believed of them; nothing else is.
        says: Vec<Statement>,
        /// Whether their TOA must be signed.
        signed: bool,
    },
    /// Local proxies that bind to a client's address.
    Proxies {
        /// The proxies.
        proxies: Vec<Proxy>,
        /// How far they are believed.
        reach: Reach,
        /// Source addresses of their connections to their own host, at most one for each IP version. Without one,
        /// the kernel chooses.
        local_source: Vec<IpAddr>,
    },
}

/// What makes a process a trusted proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// Its user.
    Uid(u32),
    /// A cgroup v2 path, from the root of the hierarchy: it is in that cgroup, or below it.
    Cgroup(String),
}

impl Trust {
    /// What output calls the rule as a whole.
    pub fn title(&self) -> String {
        match (&self.name, &self.rules()[..]) {
            (Some(name), _) => format!("trust \"{name}\""),
            (None, [rule]) => format!("[[trust]] of {}", rule.name),
            (None, [first, ..]) => format!("[[trust]] of {} and others", first.name),
            (None, []) => "[[trust]]".into(),
        }
    }

    /// Whether it is about connections to this port.
    pub fn concerns(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|ports| ports.contains(&port))
    }

    /// What output calls the rule when it believes this prefix.
    pub fn of_prefix(&self, prefix: &IpNet) -> Rule {
        self.rule(|| format!("source {prefix}"))
    }

    /// What output calls the rule when it believes this proxy.
    pub fn of_proxy(&self, proxy: &Proxy) -> Rule {
        self.rule(|| match proxy {
            Proxy::Uid(uid) => format!("uid {uid}"),
            Proxy::Cgroup(path) => format!("cgroup {path}"),
        })
    }

    fn rule(&self, speaker: impl FnOnce() -> String) -> Rule {
        match &self.name {
            // Sections of other kinds may have the same name.
            Some(name) => Rule {
                id: rule_id(&format!("trust {name}")),
                name: name.clone(),
            },
            None => {
                let name = speaker();
                Rule {
                    id: rule_id(&name),
                    name,
                }
            }
        }
    }

    /// All that output calls the rule.
    pub fn rules(&self) -> Vec<Rule> {
        match &self.speakers {
            Speakers::Sources { prefixes, .. } => {
                prefixes.iter().map(|p| self.of_prefix(p)).collect()
            }
            Speakers::Proxies { proxies, .. } => proxies.iter().map(|p| self.of_proxy(p)).collect(),
        }
    }

    /// Whether it believes local proxies.
    pub fn believes_proxies(&self) -> bool {
        matches!(self.speakers, Speakers::Proxies { .. })
    }

    /// Whether it chooses the source of local proxies' connections to their own host.
    pub fn has_local_source(&self) -> bool {
        matches!(&self.speakers, Speakers::Proxies { local_source, .. } if !local_source.is_empty())
    }

    /// Whether it believes this statement of anybody.
    pub fn believes(&self, statement: Statement) -> bool {
        matches!(&self.speakers, Speakers::Sources { says, .. } if says.contains(&statement))
    }
}

/// A rule as records and output refer to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Its id in records.
    pub id: u32,
    /// Its name: `trusted_by` of a peer.
    pub name: String,
}
