//! The section `[reveal]`: who is told the true client.

use super::{fields::cgroups, problem::Problems, section::Section};

pub(super) const KEYS: [&str; 3] = ["enabled", "cgroups", "inexpressible"];

/// The section `[reveal]`: which processes learn the true client from `accept()` and `getpeername()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reveal {
    /// Whether any process does.
    pub enabled: bool,
    /// cgroup v2 paths, from the root of the hierarchy, of these processes; empty for every process.
    pub cgroups: Vec<String>,
    /// What becomes of a connection whose client an application cannot be told.
    pub inexpressible: Inexpressible,
}

/// What becomes of a connection with an IPv6 client to an IPv4 socket, which cannot express its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inexpressible {
    /// unwrap, relays and the binds of local proxies make none: the application would see the hop.
    #[default]
    Refuse,
    /// The application sees the hop, perhaps a loopback address.
    Pass,
}

impl Default for Reveal {
    fn default() -> Self {
        Self {
            enabled: true,
            cgroups: Vec::new(),
            inexpressible: Inexpressible::default(),
        }
    }
}

impl Reveal {
    /// Whether connections are refused whose client an application cannot be told. Where nobody is told, none is.
    pub fn refuses(&self) -> bool {
        self.enabled && self.inexpressible == Inexpressible::Refuse
    }

    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Self {
        section.refuse_unknown(problems);
        Self {
            enabled: section.boolean("enabled", problems).unwrap_or(true),
            cgroups: cgroups("cgroups", section, problems),
            inexpressible: section
                .word(
                    "inexpressible",
                    &[
                        ("refuse", Inexpressible::Refuse),
                        ("pass", Inexpressible::Pass),
                    ],
                    problems,
                )
                .0,
        }
    }
}
