//! The fuzzers, and how libFuzzer is told to run one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::cargo::root;

/// Stands for all fuzzers.
pub(super) const ALL: &str = "all";

/// When a fuzzer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// After so many inputs.
    Runs(u64),
    /// After so many seconds.
    Seconds(u64),
}

impl Limit {
    /// As many as libFuzzer counts to.
    pub(crate) const MAX_RUNS: u64 = i32::MAX as u64;

    /// What each of so many processes does of this; with few runs, some have nothing to do.
    pub(super) fn shares(self, processes: usize) -> impl Iterator<Item = Self> {
        let processes = processes as u64;
        (0..processes).filter_map(move |number| match self {
            Self::Seconds(_) => Some(self),
            Self::Runs(runs) => {
                let share = runs / processes + u64::from(number < runs % processes);
                (share > 0).then_some(Self::Runs(share))
            }
        })
    }
}

/// A fuzzer, with its inputs in the tree.
pub(super) struct Fuzzer {
    pub(super) name: String,
    pub(super) corpus: PathBuf,
    /// How many bytes an input has at most.
    longest: usize,
}

/// What the manifest of the fuzzers says about them.
#[derive(Deserialize)]
struct Manifest {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    longest: BTreeMap<String, usize>,
}

/// The fuzzer of this name, or all.
pub(super) fn choose(name: &str) -> Result<Vec<Fuzzer>> {
    let package = root().join("tests/fuzz");
    let manifest = package.join("Cargo.toml");
    let told = fs::read_to_string(&manifest)?;
    let told: Manifest = toml::from_str(&told).with_context(|| manifest.display().to_string())?;
    let all = told.package.metadata.longest.into_iter();
    let fuzzer = |(name, longest): (String, usize)| Fuzzer {
        corpus: package.join("corpus").join(&name),
        name,
        longest,
    };
    let is_meant = |fuzzer: &Fuzzer| name == ALL || fuzzer.name == name;
    let chosen: Vec<_> = all.map(fuzzer).filter(is_meant).collect();
    if chosen.is_empty() {
        bail!("there is no fuzzer `{name}`; `cargo xtask fuzz` lists them");
    }
    Ok(chosen)
}

impl Fuzzer {
    /// The program as this fuzzer.
    pub(super) fn engine(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("TRUEPEER_FUZZER", &self.name)
            // In seconds, for one input; in MB, for all.
            .args(["-timeout=10", "-rss_limit_mb=2048"]);
        command
    }

    /// The directory for what is found outside of the tree.
    pub(super) fn found(&self, kind: &str) -> Result<PathBuf> {
        let directory = root().join("target/fuzz").join(kind).join(&self.name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }

    /// How many inputs are in the tree, and how long they are together.
    pub(super) fn size(&self) -> Result<(usize, u64)> {
        let mut size = (0, 0);
        for entry in fs::read_dir(&self.corpus)? {
            size = (size.0 + 1, size.1 + entry?.metadata()?.len());
        }
        Ok(size)
    }

    /// The program that looks for inputs on which this fuzzer fails, to the limit.
    pub(super) fn command(&self, program: &Path, limit: Limit) -> Result<Command> {
        let mut command = self.engine(program);
        match limit {
            Limit::Runs(runs) => command.arg(format!("-runs={runs}")),
            Limit::Seconds(seconds) => command.arg(format!("-max_total_time={seconds}")),
        };
        let failed = self.found("failed")?;
        command
            .arg(format!("-max_len={}", self.longest))
            // Inputs that are read fast are chosen more often.
            .arg("-entropic_scale_per_exec_time=1")
            .arg(format!("-artifact_prefix={}/", failed.display()))
            .arg("-print_final_stats=1")
            // New inputs go to the first directory.
            .args([&self.found("corpus")?, &self.corpus]);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_tells_of_each_fuzzer() {
        let told = choose(ALL).unwrap().into_iter().map(|fuzzer| fuzzer.name);
        let corpora = fs::read_dir(root().join("tests/fuzz/corpus")).unwrap();
        let corpora = corpora.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut corpora: Vec<_> = corpora.collect();
        corpora.sort();
        assert!(told.eq(corpora));
        assert!(choose("no such fuzzer").is_err());
    }

    #[test]
    fn processes_share_the_runs_and_each_has_all_the_time() {
        let shares = |limit: Limit, processes| limit.shares(processes).collect::<Vec<_>>();
        for (limit, processes, expected) in [
            (Limit::Runs(7), 2, vec![Limit::Runs(4), Limit::Runs(3)]),
            (Limit::Runs(1), 2, vec![Limit::Runs(1)]),
            (Limit::Seconds(7), 2, vec![Limit::Seconds(7); 2]),
        ] {
            assert_eq!(shares(limit, processes), expected);
        }
    }
}
