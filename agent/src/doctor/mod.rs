//! What works on this host and what does not: each finding with its reason, and what is wrong also
//! with its consequence and its remedy.

mod capabilities;
mod kernel;
mod keys;
mod marks;
mod mounts;
mod namespace;
mod node;
mod probe;
mod programs;
mod proxy;
mod sysctls;

use std::path::Path;

use anyhow::Error;
use serde::Serialize;

use crate::{
    config::{Config, Steer},
    host::netns::Netns,
};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// truepeer works, but not for everything or not as well as it could.
    Warn,
    /// truepeer does not work.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub reason: String,
    /// What does not work for it; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consequence: String,
    /// What to do about it; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Check {
    fn ok(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            outcome: Outcome::Ok,
            reason: reason.into(),
            consequence: String::new(),
            remedy: String::new(),
        }
    }

    /// What is wrong; `consequence` and `remedy` are to be told along with it.
    fn wrong(
        outcome: Outcome,
        name: impl Into<String>,
        reason: impl Into<String>,
        consequence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            outcome,
            consequence: consequence.into(),
            remedy: remedy.into(),
            ..Self::ok(name, reason)
        }
    }

    /// A check that could not be made.
    fn failed(name: impl Into<String>, error: &Error) -> Self {
        Self::wrong(
            Outcome::Fail,
            name,
            format!("{error:#}"),
            "it is unknown whether this works",
            "run `truepeer doctor` as root, in the namespaces of the host",
        )
    }
}

/// Checks this host. `pre`: only what can be told before anything is installed or configured;
/// otherwise also what `config` needs, and a connection through the real data path.
pub fn run(pre: bool, config: &Config) -> Vec<Check> {
    let mut checks = capabilities::check();
    checks.extend(kernel::check());
    checks.extend(mounts::check(&config.agent.bpffs));
    let host_is_fit = |checks: &[Check]| checks.iter().all(|c| c.outcome != Outcome::Fail);
    checks.extend(programs::check(host_is_fit(&checks), config));
    if pre {
        return checks;
    }
    checks.extend(config.trust.keys.as_deref().map(keys::check));
    let host_is_fit = host_is_fit(&checks);
    for (path, steers) in by_namespace(&config.steer) {
        match Netns::open_or_current(path) {
            Ok(netns) => {
                checks.extend(namespace::check(&netns, &steers));
                checks.extend(sysctls::check(&netns, &steers));
                checks.extend(marks::check(&netns, &steers));
                checks.extend(proxy::check(&netns, &steers));
            }
            Err(error) => checks.push(namespace::missing(path, &error)),
        }
    }
    checks.extend(node::check(config));
    checks.push(probe::check(host_is_fit, &config.agent.bpffs));
    checks
}

/// The steers of each network namespace, in the order of the configuration.
fn by_namespace(steers: &[Steer]) -> Vec<(Option<&Path>, Vec<Steer>)> {
    let mut groups: Vec<(Option<&Path>, Vec<Steer>)> = Vec::new();
    for steer in steers {
        let path = steer.netns.as_deref();
        match groups.iter_mut().find(|(known, _)| *known == path) {
            Some((_, group)) => group.push(steer.clone()),
            None => groups.push((path, vec![steer.clone()])),
        }
    }
    groups
}

/// What a check that returns an error has found.
fn or_failed(name: &str, checks: anyhow::Result<Vec<Check>>) -> Vec<Check> {
    checks.unwrap_or_else(|error| vec![Check::failed(name, &error)])
}
