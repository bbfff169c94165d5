//! What ran on which kernel, passed or failed.

use std::{fmt, time::Duration};

use anyhow::Result;

/// The outcome on all kernels.
#[derive(Default)]
pub(crate) struct Report(Vec<OnKernel>);

/// The outcome on one kernel.
pub(crate) struct OnKernel {
    version: String,
    passed: usize,
    failed: Vec<String>,
    /// What could not run, with its reason.
    omitted: Vec<String>,
    /// The test that has begun and of whose end nothing is known.
    begun: Option<String>,
    took: Duration,
    /// How long the kernel took to load each BPF program, in ms, in the order in which the doctor told.
    loads: Vec<(String, u64)>,
}

impl Report {
    /// Begins with a kernel.
    pub(crate) fn kernel(&mut self, version: &str) -> &mut OnKernel {
        self.0.push(OnKernel {
            version: version.to_owned(),
            passed: 0,
            failed: Vec::new(),
            omitted: Vec::new(),
            begun: None,
            took: Duration::ZERO,
            loads: Vec::new(),
        });
        self.0.last_mut().expect("just pushed")
    }

    /// Whether something ran on every kernel, and all of it passed.
    pub(crate) fn is_good(&self) -> bool {
        self.0
            .iter()
            .all(|kernel| kernel.failed.is_empty() && kernel.passed > 0)
    }
}

impl OnKernel {
    /// Takes in a line of the job: those of libtest about one test, `test NAME ... ok`, count. What the doctor says of BPF
    /// programs is kept.
    pub(crate) fn note(&mut self, line: &str) {
        if line.starts_with("ok: programs: ") {
            self.loads.extend(loads(line));
        }
        // What a test starts may print between its name and its outcome.
        if let Some(name) = self.begun.take_if(|_| matches!(line, "ok" | "FAILED")) {
            return match line {
                "ok" => self.passed += 1,
                _ => self.failed.push(name),
            };
        }
        let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        match outcome {
            "ok" => self.passed += 1,
            "FAILED" => self.failed.push(name.to_owned()),
            _ if outcome.starts_with("ignored") => {
                self.omitted.push(format!("{name} ({outcome})"));
            }
            _ => self.begun = Some(name.to_owned()),
        }
    }

    /// Takes in how the job ended. A job that failed with no failed test is a failure, too.
    pub(crate) fn ended(&mut self, code: Result<i32>, took: Duration) {
        self.took = took;
        match code {
            Ok(0) => {}
            Ok(_) if !self.failed.is_empty() => {}
            Ok(code) => self.failed.push(format!("the job (exit code {code})")),
            Err(error) => {
                println!("{error:#}");
                self.failed.push("the machine".to_owned());
            }
        }
    }
}

/// The programs in a line of the doctor's, with the times they took:
/// `truepeer_steer (39272 instructions verified, 21 ms), truepeer_lookup (2 ms)`.
fn loads(line: &str) -> impl Iterator<Item = (String, u64)> {
    line.split("truepeer_").skip(1).filter_map(|part| {
        let (name, rest) = part.split_once(" (")?;
        let (cost, _) = rest.split_once(" ms)")?;
        let took = cost.rsplit(' ').next()?.parse().ok()?;
        Some((format!("truepeer_{name}"), took))
    })
}

impl Report {
    /// A table, in Markdown, of how long each kernel took to load each program.
    fn write_loads(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernels: Vec<_> = self.0.iter().filter(|k| !k.loads.is_empty()).collect();
        let Some(first) = kernels.first() else {
            return Ok(());
        };
        write!(f, "\n| milliseconds to load |")?;
        for kernel in &kernels {
            write!(f, " {} |", kernel.version)?;
        }
        writeln!(f, "\n|---|{}", "---:|".repeat(kernels.len()))?;
        for (program, _) in &first.loads {
            write!(f, "| `{program}` |")?;
            for kernel in &kernels {
                match kernel.loads.iter().find(|(name, _)| name == program) {
                    Some((_, took)) => write!(f, " {took} |")?,
                    None => write!(f, " - |")?,
                }
            }
            writeln!(f)?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, columns: [&str; 5]| {
            let [kernel, passed, failed, omitted, took] = columns;
            writeln!(
                f,
                "{kernel:<22}  {passed:>6}  {failed:>6}  {omitted:>7}  {took:>7}"
            )
        };
        row(f, ["KERNEL", "PASSED", "FAILED", "OMITTED", "SECONDS"])?;
        for kernel in &self.0 {
            row(
                f,
                [
                    &kernel.version,
                    &kernel.passed.to_string(),
                    &kernel.failed.len().to_string(),
                    &kernel.omitted.len().to_string(),
                    &kernel.took.as_secs().to_string(),
                ],
            )?;
        }
        for kernel in &self.0 {
            for (what, names) in [("failed", &kernel.failed), ("omitted", &kernel.omitted)] {
                for name in names {
                    writeln!(f, "{} on Linux {}: {name}", what, kernel.version)?;
                }
            }
        }
        self.write_loads(f)?;
        let passed: usize = self.0.iter().map(|kernel| kernel.passed).sum();
        let failed: usize = self.0.iter().map(|kernel| kernel.failed.len()).sum();
        write!(f, "kernels: {passed} passed, {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_tests_are_counted_and_a_job_must_end_well() {
        let mut report = Report::default();
        let kernel = report.kernel("6.1.176-1");
        for line in [
            "running 2 tests",
            "test steer ... ok",
            "test told ... truepeer: no agent answers",
            "ok",
            "test unwrap ... FAILED",
            "test dist ... ignored, needs no kernel",
            "ok: programs: of [[steer]]: truepeer_steer (39272 instructions verified, 21 ms), truepeer_lookup (2 ms)",
        ] {
            kernel.note(line);
        }
        kernel.ended(Ok(101), Duration::from_secs(61));
        assert!(!report.is_good());
        let text = report.to_string();
        for part in [
            "6.1.176-1                    2       1        1       61",
            "failed on Linux 6.1.176-1: unwrap",
            "omitted on Linux 6.1.176-1: dist (ignored, needs no kernel)",
            "| milliseconds to load | 6.1.176-1 |",
            "| `truepeer_steer` | 21 |\n| `truepeer_lookup` | 2 |",
            "kernels: 2 passed, 1 failed",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_machine_in_which_nothing_ran_is_no_success() {
        let mut report = Report::default();
        report.kernel("6.1").ended(Ok(0), Duration::ZERO);
        assert!(!report.is_good());
        let mut report = Report::default();
        let kernel = report.kernel("6.1");
        kernel.note("test steer ... ok");
        kernel.ended(Ok(1), Duration::ZERO);
        assert!(!report.is_good());
    }
}
