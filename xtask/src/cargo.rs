//! Runs cargo in the workspace.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Selects the crates that run on the host; the agent's build script compiles the BPF programs.
pub(crate) const HOST_CRATES: [&str; 3] = ["--workspace", "--exclude", "agent-ebpf"];

/// An executable that cargo built.
pub(crate) struct Executable {
    /// The target's name.
    pub(crate) name: String,
    /// Whether it runs integration tests instead of being a program.
    pub(crate) is_test: bool,
    /// The file.
    pub(crate) path: PathBuf,
    /// The directory of its package, in which cargo would run a test.
    pub(crate) package: PathBuf,
}

/// The workspace's directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// A cargo command in the workspace, with the same cargo that started xtask.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(root());
    command
}

/// Runs a cargo build, and returns the executables that it made or found up to date.
pub(crate) fn executables(command: &mut Command) -> Result<Vec<Executable>> {
    let mut child = command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo's output")?;
    let mut found = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cargo's output")?;
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let Some(path) = message["executable"].as_str() else {
            continue;
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut package = PathBuf::from(text(&message["manifest_path"]));
        package.pop();
        found.push(Executable {
            name: text(&message["target"]["name"]),
            is_test: message["profile"]["test"] == true,
            path: path.into(),
            package,
        });
    }
    if !child.wait()?.success() {
        bail!("the build failed");
    }
    Ok(found)
}

/// The path of the binary `name` among the executables.
pub(crate) fn binary(executables: &[Executable], name: &str) -> Result<PathBuf> {
    executables
        .iter()
        .find(|executable| !executable.is_test && executable.name == name)
        .map(|executable| executable.path.clone())
        .with_context(|| format!("cargo built no binary `{name}`"))
}
