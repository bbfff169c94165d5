//! The sections `[carry.toa]` and `[[carry.node]]`: how the next hop is told the client.

use std::{ops::RangeInclusive, path::PathBuf};

use ipnet::IpNet;

use super::{
    fields::{netns, ports},
    interfaces::Interfaces,
    problem::Problems,
    section::Section,
    toa::check_kind,
};

pub(super) const KEYS: [&str; 2] = ["toa", "node"];
pub(super) const TOA_KEYS: [&str; 2] = ["to", "kind"];
pub(super) const NODE_KEYS: [&str; 3] = ["netns", "interface", "ports"];

/// The section `[carry.toa]`: to which destinations a local proxy's SYN carries the client in a TCP option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarryToa {
    /// Prefixes of destinations that understand the option.
    pub to: Vec<IpNet>,
    /// The option's kind.
    pub kind: u8,
}

impl Default for CarryToa {
    fn default() -> Self {
        Self {
            to: Vec::new(),
            kind: 254,
        }
    }
}

impl CarryToa {
    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Self {
        section.refuse_unknown(problems);
        let kind = section.integer("kind", 0..=255, problems);
        let kind = kind.map_or(Self::default().kind, |(kind, span)| {
            let kind = u8::try_from(kind).expect("checked above");
            check_kind(kind, span, problems);
            kind
        });
        Self {
            to: section.prefixes("to", problems),
            kind,
        }
    }
}

/// A section `[[carry.node]]`: SYNs to which the data path adds TOA before the node's own NAT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarryNode {
    /// Path of the network namespace; `None` for the agent's own.
    pub netns: Option<PathBuf>,
    /// The interfaces by which clients come in.
    pub interface: Interfaces,
    /// The ports that clients connect to.
    pub ports: Vec<RangeInclusive<u16>>,
}

impl CarryNode {
    /// Name of the rule by which it vouches for clients.
    pub fn rule(&self) -> String {
        format!("node {}", self.interface)
    }

    /// Reads a section; `None` if it lacks its interface.
    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Self> {
        section.refuse_unknown(problems);
        let netns = netns(section, problems);
        let interface = Interfaces::required(section, problems);
        let ports = ports(section, problems);
        Some(Self {
            netns,
            interface: interface?,
            ports: ports.into_iter().map(|(ports, _)| ports).collect(),
        })
    }
}
