//! What came of a fuzzer, as libFuzzer tells it.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result};

/// How many bytes of an input are shown.
const SHOWN: usize = 512;

/// What came of a fuzzer.
#[derive(Default)]
pub(super) struct Outcome {
    name: String,
    runs: u64,
    per_second: u64,
    /// How many edges of the code were taken, and how many pairs of an edge and how often it was.
    edges: u64,
    features: u64,
    /// How many inputs reach all that.
    inputs: u64,
    failed: bool,
    /// The input on which it failed.
    input: Option<PathBuf>,
}

impl Outcome {
    /// Nothing yet, of this fuzzer.
    pub(super) fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Takes in a line of what libFuzzer prints; returns what people should see of it.
    pub(super) fn note(&mut self, line: &str) -> Option<String> {
        if let Some(status) = line.strip_prefix('#') {
            return self.status(status);
        }
        if let Some((name, value)) = line
            .strip_prefix("stat::")
            .and_then(|stat| stat.split_once(':'))
        {
            let value = value.trim().parse().unwrap_or_default();
            match name {
                "number_of_executed_units" => self.runs = value,
                "average_exec_per_sec" => self.per_second = value,
                _ => {}
            }
            return None;
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.input = Some(path.into());
            return None;
        }
        // The rest is what panics print, and how libFuzzer ends.
        let is_chatter = [
            "INFO:",
            "NOTE:",
            "WARNING: Failed to find function",
            "Done ",
            "MS:",
            "artifact_prefix",
            // Bytes of the input, which is shown below, and of the dictionary.
            "0x",
            "\\",
            "\"",
        ];
        let is_chatter = is_chatter.iter().any(|start| line.starts_with(start));
        (!is_chatter && !line.is_empty()).then(|| line.to_owned())
    }

    /// A line of status: `1024 pulse cov: 20 ft: 30 corp: 4/50b …`.
    fn status(&mut self, status: &str) -> Option<String> {
        let mut words = status.split_whitespace();
        let runs = words.next()?;
        let event = words.next()?;
        while let Some(word) = words.next() {
            let mut number = || words.next()?.split('/').next()?.parse().ok();
            match word {
                "cov:" => self.edges = number()?,
                "ft:" => self.features = number()?,
                "corp:" => self.inputs = number()?,
                _ => {}
            }
        }
        (event == "pulse").then(|| format!("{runs} runs, {} edges", self.edges))
    }

    /// Takes in how it ended, and shows the input on which it failed.
    pub(super) fn ended(&mut self, is_success: bool) -> Result<()> {
        self.failed = !is_success;
        let Some(path) = &self.input else {
            return Ok(());
        };
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii();
        let name = &self.name;
        eprintln!(
            "{name} fails on {} bytes, of which these are the first:\n  {shown}\n\
             Run it again with\n  cargo xtask fuzz {name} {}\n\
             and once that passes, keep it under a telling name in tests/fuzz/corpus/{name}.",
            bytes.len(),
            path.display(),
        );
        Ok(())
    }

    /// The fuzzer's name, if it failed.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failed.then_some(&self.name)
    }

    /// A table of what came of several.
    pub(super) fn table(outcomes: &[Self]) -> String {
        let mut table = format!(
            "{:10}{:>14}{:>10}{:>8}{:>10}{:>8}  outcome\n",
            "fuzzer", "runs", "a second", "edges", "features", "inputs"
        );
        for outcome in outcomes {
            let end = if outcome.failed { "FAILED" } else { "ok" };
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "{:10}{:>14}{:>10}{:>8}{:>10}{:>8}  {end}",
                outcome.name,
                outcome.runs,
                outcome.per_second,
                outcome.edges,
                outcome.features,
                outcome.inputs
            );
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_prints_is_understood() {
        let mut outcome = Outcome::of("toa");
        for (line, said) in [
            ("INFO: Seed: 1", None),
            (
                "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 30Mb",
                None,
            ),
            (
                "#8\tpulse  cov: 20 ft: 30 corp: 4/50b lim: 4 exec/s: 4 rss: 30Mb",
                Some("8 runs, 20 edges"),
            ),
            (
                "#9\tNEW    cov: 21 ft: 31 corp: 5/51b lim: 4 exec/s: 4 rss: 30Mb L: 1/1 MS: 1 A-",
                None,
            ),
            ("thread panicked", Some("thread panicked")),
            ("artifact_prefix='a/'; Test unit written to a/crash-1", None),
            ("stat::number_of_executed_units: 9", None),
            ("stat::average_exec_per_sec:     4", None),
        ] {
            assert_eq!(outcome.note(line).as_deref(), said, "{line}");
        }
        assert_eq!((outcome.runs, outcome.per_second), (9, 4));
        assert_eq!(
            (outcome.edges, outcome.features, outcome.inputs),
            (21, 31, 5)
        );
        assert_eq!(outcome.input.as_deref(), Some("a/crash-1".as_ref()));
    }
}
