//! The sections `[[unwrap]]`.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use agent_common::unwrap::Versions;

use super::fields::{netns, ports};
use super::interfaces::Interfaces;
use super::problem::Problems;
use super::section::Section;

pub(super) const KEYS: [&str; 4] = ["netns", "interface", "ports", "versions"];

/// Ports whose connections begin with a PROXY header, which the data path takes off in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwrap {
    /// Path of the network namespace; `None` for the agent's own.
    pub netns: Option<PathBuf>,
    /// The interfaces by which the senders come in.
    pub interface: Interfaces,
    /// The server's ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Accepted versions of the header.
    pub versions: Versions,
}

impl Unwrap {
    /// What output calls it.
    pub fn title(&self) -> String {
        format!("[[unwrap]] on {}", self.interface)
    }
}

/// An unwrap, and the place in the text that later checks point to.
pub(super) struct LocatedUnwrap {
    pub(super) unwrap: Unwrap,
    /// Place of the header.
    pub(super) span: Range<usize>,
}

impl LocatedUnwrap {
    /// Reads a section; `None` if it lacks its interface.
    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Self> {
        section.refuse_unknown(problems);
        let netns = netns(section, problems);
        let interface = Interfaces::required(section, problems);
        let ports = ports(section, problems);
        let versions = versions(section, problems);
        Some(Self {
            span: section.span.clone(),
            unwrap: Unwrap {
                netns,
                interface: interface?,
                ports: ports.into_iter().map(|(ports, _)| ports).collect(),
                versions,
            },
        })
    }
}

fn versions(section: &Section<'_, '_>, problems: &mut Problems) -> Versions {
    let both = Versions(Versions::V1.0 | Versions::V2.0);
    let Some(texts) = section.strings("versions", problems) else {
        return both;
    };
    let mut versions = Versions::default();
    for (text, span) in &texts {
        match *text {
            "v1" => versions.0 |= Versions::V1.0,
            "v2" => versions.0 |= Versions::V2.0,
            other => problems.add(
                span.clone(),
                format!("`versions` holds what is no version of the PROXY protocol: \"{other}\""),
                Some("write \"v1\" or \"v2\"".into()),
            ),
        }
    }
    if texts.is_empty() {
        problems.add(
            section.span.clone(),
            "`versions` is empty: every connection would be refused",
            Some("write `versions = [\"v2\", \"v1\"]`".into()),
        );
    }
    versions
}
