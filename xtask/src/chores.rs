//! The chores besides setup: build, run, test, bench.
//!
//! Everything is built as the calling user; only finished programs are run as root.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf, absolute},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cargo::{HOST_CRATES, binary, cargo, executables},
    fuzz, lint,
    process::{as_root, require_root, run},
    scenarios::{Chosen, IN_MACHINES, Scenarios},
    setup, tools,
};

/// Builds the agent, and prints its path and size.
pub(crate) fn build(release: bool) -> Result<()> {
    setup::toolchain()?;
    let mut command = cargo("build");
    command.args(["--package", "agent"]);
    if release {
        command.arg("--release");
    }
    let truepeer = binary(&executables(&mut command)?, "truepeer")?;
    let size = fs::metadata(&truepeer)?.len();
    println!("{} ({:.1} MB)", truepeer.display(), size as f64 / 1e6);
    Ok(())
}

/// Shows the playground, or runs the agent on this host when it gets arguments.
pub(crate) fn playground(once: bool, arguments: &[String]) -> Result<()> {
    require_root()?;
    setup::toolchain()?;
    let mut command = if arguments.is_empty() {
        tools::install_basics()?;
        let (truepeer, playground) = release("playground")?;
        as_root(&playground, &[("TRUEPEER_BIN", &truepeer)])?
    } else {
        let mut command = cargo("build");
        command.args(["--release", "--package", "agent"]);
        let truepeer = binary(&executables(&mut command)?, "truepeer")?;
        let mut command = as_root(&truepeer, &[])?;
        command.arg("run").args(arguments);
        command
    };
    if once {
        command.arg("--once");
    }
    // The program replaces this process, so that Ctrl-C and the exit code are its own.
    Err(command.exec()).context("cannot start it")
}

/// Runs the unit tests, each fuzzer for some seconds, then the end-to-end tests. First come the checks of imports and documents that `lint` also
/// makes: they take seconds, whereas clippy takes minutes.
pub(crate) fn test(filter: Option<&str>, unit: bool, e2e: bool) -> Result<()> {
    if !unit {
        require_root()?;
    }
    setup::toolchain()?;
    if !e2e && filter.is_none() {
        lint::floors()?;
        lint::documents()?;
    }
    if !e2e {
        run(cargo("test")
            .args(HOST_CRATES)
            .args(["--lib", "--bins"])
            .args(filter))?;
    }
    if !e2e && !unit && filter.is_none() {
        fuzz::briefly()?;
    }
    if !unit {
        run_scenarios(filter)?;
    }
    Ok(())
}

/// Builds the integration tests and scenarios, and runs them as root, one test at a time, because they lay out
/// namespaces and attach programs.
fn run_scenarios(filter: Option<&str>) -> Result<()> {
    let scenarios = Scenarios::build(filter)?;
    let mut failed = Vec::new();
    for Chosen { program, tests } in &scenarios.chosen {
        if program.name == IN_MACHINES {
            println!(
                "     Leaving {IN_MACHINES} to virtual machines, whose kernels have what it needs: \
                 `cargo xtask test --kernel newest --e2e {IN_MACHINES}`"
            );
            if scenarios.chosen.len() == 1 {
                failed.push(IN_MACHINES);
            }
            continue;
        }
        println!("     Running {} ({})", program.name, program.path.display());
        let mut command = as_root(&program.path, &scenarios.variables())?;
        command.arg("--test-threads=1");
        if !tests.is_empty() {
            command.arg("--exact").args(tests);
        }
        if run(command.current_dir(&program.package)).is_err() {
            failed.push(program.name.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("end-to-end tests failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Reads a number of hours.
pub(crate) fn hours(text: &str) -> Result<Duration, String> {
    let hours: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let time = Duration::try_from_secs_f64(hours * 3600.0).ok();
    time.filter(|time| time.as_secs() > 0)
        .ok_or_else(|| "not a positive number of hours: 0.05 are three minutes".into())
}

/// Runs the scenario of the soak for so long.
pub(crate) fn soak(time: Duration) -> Result<()> {
    const SOAK: &str = "soak";
    require_root()?;
    setup::toolchain()?;
    tools::install()?;
    let built = |subcommand: &str, arguments: &[&str]| {
        executables(cargo(subcommand).args(HOST_CRATES).args(arguments))
    };
    let truepeer = binary(&built("build", &["--bin", "truepeer"])?, "truepeer")?;
    let tests = built("test", &["--test", SOAK, "--no-run"])?;
    let test = tests
        .iter()
        .find(|built| built.is_test && built.name == SOAK)
        .context("cargo built no soak")?;
    let seconds = time.as_secs().to_string();
    let variables = [
        ("TRUEPEER_BIN", truepeer.as_path()),
        ("TRUEPEER_SOAK_SECONDS", Path::new(&seconds)),
    ];
    let mut command = as_root(&test.path, &variables)?;
    command
        .args(["--nocapture", "--test-threads=1"])
        .current_dir(&test.package);
    // The program replaces this process, so that Ctrl-C and the exit code are its own.
    Err(command.exec()).context("cannot start it")
}

/// Runs the benchmark.
pub(crate) fn bench(json: Option<&Path>, arguments: &[String]) -> Result<()> {
    require_root()?;
    setup::toolchain()?;
    let envoy = tools::install()?;
    let (truepeer, bench) = release("bench")?;
    let mut command = as_root(
        &bench,
        &[("TRUEPEER_BIN", &truepeer), ("ENVOY_BIN", &envoy)],
    )?;
    if let Some(json) = json {
        // A file that is created here belongs to the calling user.
        File::options()
            .append(true)
            .create(true)
            .open(json)
            .with_context(|| format!("cannot write {}", json.display()))?;
        command.arg("--json").arg(absolute(json)?);
    }
    run(command.args(arguments))
}

/// Builds the agent and a program of the tests in release; returns both paths.
fn release(program: &str) -> Result<(PathBuf, PathBuf)> {
    let mut command = cargo("build");
    command
        .args(["--release", "--package", "agent", "--package", "tests"])
        .args(["--bin", "truepeer", "--bin", program]);
    let built = executables(&mut command)?;
    Ok((binary(&built, "truepeer")?, binary(&built, program)?))
}
