//! What came of a fuzzer.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::progress::Progress;

/// How many bytes of an input are shown.
const SHOWN: usize = 512;

/// How a fuzzer ended; the later ones outweigh the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// At the limit.
    Limit,
    /// Because somebody wanted it to.
    Interrupted,
    /// At an input on which it failed, or without any.
    Failed,
}

/// What came of a fuzzer, from all of its processes.
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) time: Duration,
    pub(super) end: End,
    pub(super) processes: Vec<Progress>,
}

impl Outcome {
    /// How many inputs were read.
    fn runs(&self) -> u64 {
        self.processes.iter().map(|process| process.runs).sum()
    }

    /// The most that one process came to: each takes up what the others find, some later.
    fn most(&self, of: impl Fn(&Progress) -> u64) -> u64 {
        self.processes.iter().map(of).max().unwrap_or_default()
    }

    /// How far it has come.
    pub(super) fn pulse(&self) -> String {
        format!("{} runs, {} edges", self.runs(), self.most(|p| p.edges))
    }

    /// Shows the inputs on which it failed.
    pub(super) fn show_inputs(&self) -> Result<()> {
        let inputs = self.processes.iter().filter_map(|p| p.input.as_deref());
        for path in inputs {
            show(&self.name, path)?;
        }
        Ok(())
    }

    /// The fuzzer's name, if it failed.
    pub(super) fn failure(&self) -> Option<&str> {
        (self.end == End::Failed).then_some(&self.name)
    }

    /// A table of what came of several.
    pub(super) fn table(outcomes: &[Self]) -> String {
        let mut table = format!(
            "{:10}{:>14}{:>10}{:>8}{:>10}{:>8}  outcome\n",
            "fuzzer", "runs", "a second", "edges", "features", "inputs"
        );
        for outcome in outcomes {
            let end = match outcome.end {
                End::Limit => "ok",
                End::Interrupted => "ok so far",
                End::Failed => "FAILED",
            };
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "{:10}{:>14}{:>10.0}{:>8}{:>10}{:>8}  {end}",
                outcome.name,
                outcome.runs(),
                outcome.runs() as f64 / outcome.time.as_secs_f64(),
                outcome.most(|p| p.edges),
                outcome.most(|p| p.features),
                outcome.most(|p| p.inputs)
            );
        }
        table
    }
}

/// Shows an input on which a fuzzer failed, and how to go on.
fn show(name: &str, path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii();
    eprintln!(
        "{name} fails on {} bytes, of which these are the first:\n  {shown}\n\
         Run it again with\n  cargo xtask fuzz {name} {}\n\
         and once that passes, keep it under a telling name in tests/fuzz/corpus/{name}.",
        bytes.len(),
        path.display(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_all_processes_count() {
        let process = |runs, edges| Progress {
            runs,
            edges,
            ..Progress::default()
        };
        let outcome = Outcome {
            name: "toa".into(),
            time: Duration::from_secs(3),
            end: End::Interrupted,
            processes: vec![process(100, 7), process(200, 9)],
        };
        assert_eq!(outcome.pulse(), "300 runs, 9 edges");
        assert_eq!(outcome.failure(), None);
        let table = Outcome::table(&[outcome]);
        let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["toa", "300", "100", "9", "0", "0", "ok", "so", "far"]);
    }
}
