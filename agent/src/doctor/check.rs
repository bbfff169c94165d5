//! A check and its outcome.

use anyhow::{Error, Result};
use serde::Serialize;

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All is well.
    Ok,
    /// truepeer works, but not for everything, or not as well as it could.
    Warn,
    /// truepeer does not work.
    Fail,
}

/// A check with its finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Its outcome.
    pub outcome: Outcome,
    /// The finding.
    pub reason: String,
    /// What does not work because of it; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consequence: String,
    /// What to do about it; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Check {
    /// A check that found all well.
    pub(super) fn ok(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            outcome: Outcome::Ok,
            reason: reason.into(),
            consequence: String::new(),
            remedy: String::new(),
        }
    }

    /// A check that found something wrong.
    pub(super) fn wrong(
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

    /// A check that could not be carried out.
    pub(super) fn failed(name: impl Into<String>, error: &Error) -> Self {
        Self::wrong(
            Outcome::Fail,
            name,
            format!("{error:#}"),
            "it is unknown whether this works",
            "run `truepeer doctor` as root, in the namespaces of the host",
        )
    }
}

/// The checks or, if they could not be carried out, one that says so.
pub(super) fn or_failed(name: &str, checks: Result<Vec<Check>>) -> Vec<Check> {
    checks.unwrap_or_else(|error| vec![Check::failed(name, &error)])
}
