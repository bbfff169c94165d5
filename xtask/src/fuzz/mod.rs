//! `cargo xtask fuzz`: builds the fuzzers of `tests/fuzz` with libFuzzer, and runs them.

mod fuzzer;
mod interrupts;
mod outcome;
mod progress;
mod run;

use std::{fs, path::PathBuf, process::Stdio};

use anyhow::{Result, bail};

use crate::{
    cargo::{HOST_CRATES, binary, cargo, executables, root},
    process::run,
    setup, tools,
};
pub(crate) use fuzzer::Limit;
use fuzzer::{ALL, choose};

/// What makes fuzzers fast, and takes minutes to compile. What libraries assert of themselves is theirs to test.
const OPTIMISATION: [&str; 5] = [
    "profile.dev.opt-level=3",
    "profile.dev.codegen-units=1",
    "profile.dev.incremental=false",
    "profile.dev.package.'*'.debug-assertions=false",
    "profile.dev.package.'*'.overflow-checks=false",
];
/// How many seconds each runs that is told nothing else, and how many in `cargo xtask test`.
const SECONDS: u64 = 60;
const BRIEFLY: u64 = 7;

/// Runs fuzzers until the limit, or the one on these inputs. Without a name, says which there are.
pub(crate) fn fuzz(name: Option<&str>, inputs: &[PathBuf], limit: Option<Limit>) -> Result<()> {
    let Some(name) = name else {
        return list();
    };
    let chosen = choose(name)?;
    match (&chosen[..], inputs) {
        (fuzzers, []) => {
            let limit = limit.unwrap_or(Limit::Seconds(SECONDS));
            run::all(&build(true)?, fuzzers, limit)
        }
        ([fuzzer], inputs) => run(fuzzer.engine(&build(false)?).args(inputs)),
        _ => bail!("inputs are for one fuzzer: name it instead of `{ALL}`"),
    }
}

/// Runs each fuzzer for some seconds, as a part of the tests.
pub(crate) fn briefly() -> Result<()> {
    run::all(&build(false)?, &choose(ALL)?, Limit::Seconds(BRIEFLY))
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
            .engine(&program)
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

/// Builds the program with all fuzzers: optimised, or with the libraries that are compiled for other programs
/// anyway.
fn build(optimised: bool) -> Result<PathBuf> {
    setup::toolchain()?;
    tools::install_engine()?;
    let mut command = cargo("build");
    command
        .args(["--bin", "fuzz", "--features", "fuzz/engine"])
        .env(
            "RUSTC_WORKSPACE_WRAPPER",
            root().join("xtask/instrument.sh"),
        );
    match optimised {
        true => command
            .args(["--package", "fuzz"])
            .args(OPTIMISATION.iter().flat_map(|set| ["--config", set])),
        // Libraries have the same features then as in tests, and are compiled once.
        false => command.args(HOST_CRATES),
    };
    binary(&executables(&mut command)?, "fuzz")
}

/// Whether libFuzzer named this input: by its SHA-1.
fn is_by_engine(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
