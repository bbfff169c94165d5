//! What `truepeer doctor` finds.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::config::Config;
use super::running::truepeer;

/// A check of `truepeer doctor`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the command's own names")]
pub struct Check {
    pub name: String,
    pub outcome: String,
    pub reason: String,
    #[serde(default)]
    pub consequence: String,
    #[serde(default)]
    pub remedy: String,
}

/// What the doctor says, and whether all is well by its exit code.
#[derive(Debug)]
pub struct Visit {
    /// Whether the exit code is 0.
    pub is_well: bool,
    /// All checks, in their order.
    pub checks: Vec<Check>,
}

impl Visit {
    /// Of the host, with what this configuration needs.
    pub fn with(config: &Config) -> Result<Self> {
        let path = config.write()?;
        Self::by(&["--config", &path.display().to_string()])
    }

    /// With these arguments.
    pub fn by(arguments: &[&str]) -> Result<Self> {
        let output = truepeer(&[&["doctor", "--output", "json"], arguments].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let checks: Vec<Check> =
            serde_json::from_slice(&output.stdout).context(said.into_owned())?;
        let is_well = output.status.success();
        let has_failed = checks.iter().any(|check| check.outcome == "fail");
        ensure!(
            is_well != has_failed,
            "exit status {} with {checks:#?}",
            output.status
        );
        Ok(Self { is_well, checks })
    }

    /// A check of this name has this outcome, and says all of these words. A problem has consequence and remedy.
    pub fn finds(&self, outcome: &str, name: &str, words: &[&str]) -> Result<()> {
        let says = |check: &&Check| {
            let said = format!("{} {} {}", check.reason, check.consequence, check.remedy);
            (check.outcome.as_str(), check.name.as_str()) == (outcome, name)
                && words.iter().all(|word| said.contains(word))
        };
        let found = self.checks.iter().find(says);
        let found = found.with_context(|| {
            format!("no {outcome} {name:?} with {words:?} in {:#?}", self.checks)
        })?;
        let is_whole = !found.consequence.is_empty() && !found.remedy.is_empty();
        ensure!(is_whole || outcome == "ok", "{found:?}");
        Ok(())
    }
}
