//! The section `[reveal]`: who is told the true client.

use super::{fields::cgroups, problem::Problems, section::Section};

pub(super) const KEYS: [&str; 2] = ["enabled", "cgroups"];

/// The section `[reveal]`: which processes learn the true client from `accept()` and `getpeername()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reveal {
    /// Whether any process does.
    pub enabled: bool,
    /// cgroup v2 paths, from the root of the hierarchy, of these processes; empty for every process.
    pub cgroups: Vec<String>,
}

impl Default for Reveal {
    fn default() -> Self {
        Self {
            enabled: true,
            cgroups: Vec::new(),
        }
    }
}

impl Reveal {
    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Self {
        section.refuse_unknown(problems);
        Self {
            enabled: section.boolean("enabled", problems).unwrap_or(true),
            cgroups: cgroups("cgroups", section, problems),
        }
    }
}
