//! The sections `[trust]` and `[reveal]`: who may speak for a client, and who is told.

use super::{
    problem::Problems,
    reader::{Located, Section},
};

pub(super) const TRUST_KEYS: [&str; 2] = ["uids", "cgroups"];
pub(super) const REVEAL_KEYS: [&str; 2] = ["enabled", "cgroups"];

/// The section `[trust]`: local proxies whose bind to a client's address is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// User ids of such proxies.
    pub uids: Vec<u32>,
    /// cgroup v2 paths, from the root of the hierarchy, of such proxies and all below.
    pub cgroups: Vec<String>,
}

impl Trust {
    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.cgroups.is_empty()
    }

    /// The rules by name, as answers tell them.
    pub fn rules(&self) -> impl Iterator<Item = String> + '_ {
        let uids = self.uids.iter().map(|uid| Self::uid_rule(*uid));
        uids.chain(self.cgroups.iter().map(|path| Self::cgroup_rule(path)))
    }

    /// Name of the rule that trusts a user.
    pub fn uid_rule(uid: u32) -> String {
        format!("uid {uid}")
    }

    /// Name of the rule that trusts a cgroup.
    pub fn cgroup_rule(path: &str) -> String {
        format!("cgroup {path}")
    }

    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Self {
        section.refuse_unknown(problems);
        let uids = section.integers("uids", 0..=u32::MAX - 1, problems);
        Self {
            uids: uids.into_iter().flatten().map(|(uid, _)| uid).collect(),
            cgroups: cgroups(section, problems),
        }
    }
}

/// The section `[reveal]`: the processes that `accept()` and `getpeername()` tell the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reveal {
    /// Whether anybody is told.
    pub enabled: bool,
    /// cgroup v2 paths, from the root of the hierarchy; none: every process.
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
            cgroups: cgroups(section, problems),
        }
    }
}

fn cgroups(section: &Section<'_, '_>, problems: &mut Problems) -> Vec<String> {
    let paths: Vec<Located<&str>> = section.strings("cgroups", problems).unwrap_or_default();
    for (path, span) in &paths {
        if !path.starts_with('/') {
            problems.add(
                span.clone(),
                format!(
                    "`cgroups` holds what is not a path from the root of the hierarchy: \"{path}\""
                ),
                Some(format!("write \"/{path}\"")),
            );
        }
    }
    paths.into_iter().map(|(path, _)| path.to_owned()).collect()
}
