//! How far a process with a fuzzer has come, as libFuzzer tells it.

use std::path::PathBuf;

/// How far a process has come.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) runs: u64,
    /// How many edges of the code were taken, and how many pairs of an edge and how often it was.
    pub(super) edges: u64,
    pub(super) features: u64,
    /// How many inputs reach all that.
    pub(super) inputs: u64,
    /// The input on which it failed.
    pub(super) input: Option<PathBuf>,
}

/// What people should see of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing.
    Nothing,
    /// How far it has come: libFuzzer tells that ever more seldom.
    Pulse,
    /// The line.
    All,
}

/// How lines start that tell people nothing.
const CHATTER: [&str; 11] = [
    "INFO:",
    "NOTE:",
    "WARNING: Failed to find function",
    "Done ",
    "MS:",
    "artifact_prefix",
    // Bytes of the input, which is shown, and of the dictionary.
    "0x",
    "\\",
    "\"",
    "###### ",
    // A function that was reached for the first time, of which only the address is known.
    "\tNEW_FUNC",
];

impl Progress {
    /// Takes in a line of what libFuzzer prints.
    pub(super) fn note(&mut self, line: &str) -> Said {
        if let Some(status) = line.strip_prefix('#')
            && let Some(said) = self.status(status)
        {
            return said;
        }
        if let Some((name, value)) = line
            .strip_prefix("stat::")
            .and_then(|stat| stat.split_once(':'))
        {
            if name == "number_of_executed_units" {
                self.runs = value.trim().parse().unwrap_or_default();
            }
            return Said::Nothing;
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.input = Some(path.into());
            return Said::Nothing;
        }
        // The rest is what panics print, and how libFuzzer ends.
        let is_chatter = CHATTER.iter().any(|start| line.starts_with(start));
        let is_asked = line.ends_with("exiting as requested");
        if is_chatter || is_asked || line.is_empty() {
            Said::Nothing
        } else {
            Said::All
        }
    }

    /// A line of status: `1024 pulse cov: 20 ft: 30 corp: 4/50b …`.
    fn status(&mut self, status: &str) -> Option<Said> {
        let mut words = status.split_whitespace();
        let runs = words.next()?.parse().ok()?;
        let event = words.next()?;
        self.runs = runs;
        while let Some(word) = words.next() {
            let mut number = || words.next()?.split('/').next()?.parse().ok();
            match word {
                "cov:" => self.edges = number()?,
                "ft:" => self.features = number()?,
                "corp:" => self.inputs = number()?,
                _ => {}
            }
        }
        Some(match event {
            "pulse" => Said::Pulse,
            _ => Said::Nothing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_prints_is_understood() {
        let mut progress = Progress::default();
        for (line, said) in [
            ("INFO: Seed: 1", Said::Nothing),
            (
                "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 30Mb",
                Said::Nothing,
            ),
            (
                "#8\tpulse  cov: 20 ft: 30 corp: 4/50b lim: 4 exec/s: 4 rss: 30Mb",
                Said::Pulse,
            ),
            (
                "#9\tNEW    cov: 21 ft: 31 corp: 5/51b lim: 4 exec/s: 4 rss: 30Mb L: 1/1 MS: 1 A-",
                Said::Nothing,
            ),
            ("\tNEW_FUNC[1/3]: 0x55b729d3e131", Said::Nothing),
            ("thread panicked", Said::All),
            (
                "artifact_prefix='a/'; Test unit written to a/crash-1",
                Said::Nothing,
            ),
            ("==7== INFO: libFuzzer: exiting as requested", Said::Nothing),
        ] {
            assert_eq!(progress.note(line), said, "{line}");
        }
        // A process that is killed tells no more than that.
        assert_eq!(progress.runs, 9);
        progress.note("stat::number_of_executed_units: 12");
        assert_eq!(progress.runs, 12);
        assert_eq!(
            (progress.edges, progress.features, progress.inputs),
            (21, 31, 5)
        );
        assert_eq!(progress.input.as_deref(), Some("a/crash-1".as_ref()));
    }
}
