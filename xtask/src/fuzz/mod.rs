//! `cargo xtask fuzz`: builds the fuzzers of `tests/fuzz` with libFuzzer, and runs them.

mod outcome;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cargo::{HOST_CRATES, binary, cargo, executables, root},
    process::run,
    setup, tools,
};
use outcome::Outcome;

/// What makes fuzzers fast, and takes minutes to compile.
const OPTIMISATION: [&str; 3] = [
    "profile.dev.opt-level=2",
    "profile.dev.package.agent-common.opt-level=3",
    "profile.dev.package.fuzz.opt-level=3",
];
/// Stands for all fuzzers.
const ALL: &str = "all";
/// How many seconds each runs that is told nothing else, and how many in `cargo xtask test`.
const SECONDS: u64 = 60;
const BRIEFLY: u64 = 7;

/// When a fuzzer ends.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// After so many inputs.
    Runs(u64),
    /// After so many seconds.
    Seconds(u64),
}

/// A fuzzer, with its inputs in the tree.
struct Fuzzer {
    name: String,
    corpus: PathBuf,
}

/// Runs fuzzers until the limit, or the one on these inputs. Without a name, says which there are.
pub(crate) fn fuzz(name: Option<&str>, inputs: &[PathBuf], limit: Option<Limit>) -> Result<()> {
    let Some(name) = name else {
        return list();
    };
    let chosen = choose(name)?;
    match (&chosen[..], inputs) {
        (fuzzers, []) => {
            let limit = limit.unwrap_or(Limit::Seconds(SECONDS));
            run_all(&build(true)?, fuzzers, limit)
        }
        ([fuzzer], inputs) => run(fuzzer.command(&build(false)?).args(inputs)),
        _ => bail!("inputs are for one fuzzer: name it instead of `{ALL}`"),
    }
}

/// Runs each fuzzer for some seconds, as a part of the tests.
pub(crate) fn briefly() -> Result<()> {
    run_all(&build(false)?, &choose(ALL)?, Limit::Seconds(BRIEFLY))
}

/// Has the inputs in the tree be the fewest that reach as much as all that were ever found. Those whose names
/// people gave stay.
pub(crate) fn minimise(name: &str) -> Result<()> {
    let chosen = choose(name)?;
    let program = build(false)?;
    for fuzzer in &chosen {
        let work = tempfile::tempdir_in(root().join("target"))?;
        let fewest = work.path();
        // What is reached counts, and not how often.
        run(fuzzer
            .command(&program)
            .args(["-merge=1", "-set_cover_merge=1", "-use_counters=0"])
            .arg(fewest)
            .args([&fuzzer.corpus, &fuzzer.found("corpus")?])
            .stderr(Stdio::null()))?;
        for entry in fs::read_dir(&fuzzer.corpus)? {
            let entry = entry?;
            if is_by_engine(&entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
        for entry in fs::read_dir(fewest)? {
            let entry = entry?;
            fs::copy(entry.path(), fuzzer.corpus.join(entry.file_name()))?;
        }
        let (number, bytes) = fuzzer.size()?;
        println!("{}: {number} inputs, {bytes} bytes", fuzzer.name);
    }
    Ok(())
}

/// Says which fuzzers there are, and what each reads: the first line of its file.
fn list() -> Result<()> {
    println!(
        "A fuzzer is given ever more inputs that reach code which no other input has reached.\n"
    );
    for fuzzer in choose(ALL)? {
        let file = root().join(format!("tests/fuzz/src/{}.rs", fuzzer.name));
        let text = fs::read_to_string(file)?;
        let about = text.lines().next().unwrap_or_default();
        println!("  {:10}{}", fuzzer.name, about.trim_start_matches("//! "));
    }
    println!(
        "\n`cargo xtask fuzz NAME` runs one for {SECONDS} seconds, `cargo xtask fuzz {ALL}` each of them."
    );
    Ok(())
}

/// The fuzzer of this name, or all: each has a directory of inputs.
fn choose(name: &str) -> Result<Vec<Fuzzer>> {
    let corpus = root().join("tests/fuzz/corpus");
    let mut all = Vec::new();
    for entry in fs::read_dir(&corpus)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let corpus = corpus.join(&name);
        all.push(Fuzzer { name, corpus });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    if name != ALL {
        all.retain(|fuzzer| fuzzer.name == name);
    }
    if all.is_empty() {
        bail!("there is no fuzzer `{name}`; `cargo xtask fuzz` lists them");
    }
    Ok(all)
}

/// Builds the program with all fuzzers: optimised, or with the libraries that are compiled for other programs
/// anyway.
fn build(optimised: bool) -> Result<PathBuf> {
    setup::toolchain()?;
    tools::install_engine()?;
    let mut command = cargo("build");
    command
        // Libraries have the same features then as in tests, and are compiled once.
        .args(HOST_CRATES)
        .args(["--bin", "fuzz", "--features", "fuzz/engine"])
        .env(
            "RUSTC_WORKSPACE_WRAPPER",
            root().join("xtask/instrument.sh"),
        );
    if optimised {
        command.args(OPTIMISATION.iter().flat_map(|set| ["--config", set]));
    }
    binary(&executables(&mut command)?, "fuzz")
}

/// Runs fuzzers one after the other, and prints what came of each.
fn run_all(program: &Path, fuzzers: &[Fuzzer], limit: Limit) -> Result<()> {
    let mut outcomes = Vec::new();
    for fuzzer in fuzzers {
        println!("     Fuzzing {}", fuzzer.name);
        outcomes.push(fuzzer.run(program, limit)?);
    }
    print!("{}", Outcome::table(&outcomes));
    let failed: Vec<_> = outcomes.iter().filter_map(Outcome::failure).collect();
    if !failed.is_empty() {
        bail!("fuzzers failed: {}", failed.join(", "));
    }
    Ok(())
}

impl Fuzzer {
    /// The program as this fuzzer.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("TRUEPEER_FUZZER", &self.name)
            // In seconds, for one input; in MB, for all.
            .args(["-timeout=10", "-rss_limit_mb=2048"]);
        command
    }

    /// The directory for what is found outside of the tree.
    fn found(&self, kind: &str) -> Result<PathBuf> {
        let directory = root().join("target/fuzz").join(kind).join(&self.name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }

    /// How many inputs are in the tree, and how long they are together.
    fn size(&self) -> Result<(usize, u64)> {
        let mut size = (0, 0);
        for entry in fs::read_dir(&self.corpus)? {
            size = (size.0 + 1, size.1 + entry?.metadata()?.len());
        }
        Ok(size)
    }

    /// Runs it to the limit, or until it fails.
    fn run(&self, program: &Path, limit: Limit) -> Result<Outcome> {
        let mut command = self.command(program);
        match limit {
            Limit::Runs(runs) => command.arg(format!("-runs={runs}")),
            Limit::Seconds(seconds) => command.arg(format!("-max_total_time={seconds}")),
        };
        let mut child = command
            .arg(format!(
                "-artifact_prefix={}/",
                self.found("failed")?.display()
            ))
            .arg("-print_final_stats=1")
            // New inputs go to the first directory.
            .args([&self.found("corpus")?, &self.corpus])
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let stderr = child.stderr.take().context("the fuzzer's output")?;
        let mut outcome = Outcome::of(&self.name);
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.context("the fuzzer's output")?;
            if let Some(said) = outcome.note(&String::from_utf8_lossy(&line)) {
                eprintln!("{said}");
            }
        }
        outcome.ended(child.wait()?.success())?;
        Ok(outcome)
    }
}

/// Whether libFuzzer named this input: by its SHA-1.
fn is_by_engine(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
