//! Runs other programs. An error names the command and what it printed.

use std::{
    env,
    ffi::OsString,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Runs a command on this terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", line(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs a command out of sight, and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", line(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed ({}): {}",
            line(command),
            output.status,
            errors.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Looks a program up in `PATH` and in Debian's directories for the administrator's programs.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path())
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// `PATH` with the directories of the administrator's programs.
fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// The caller's own variables that tests get: those that begin with `TRUEPEER_`.
pub(crate) fn passed_on() -> impl Iterator<Item = (String, OsString)> {
    env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        name.starts_with("TRUEPEER_").then_some((name, value))
    })
}

/// `program` as root with these variables and [`passed_on`]: directly, or through sudo, which would drop
/// those.
pub(crate) fn as_root(program: &Path, variables: &[(&str, &Path)]) -> Result<Command> {
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new("env")
    } else {
        let mut command = Command::new(sudo()?);
        command.arg("env");
        command
    };
    // `cargo run` sets this for xtask; it concerns neither sudo nor the test binaries.
    command.args(["-u", "LD_LIBRARY_PATH"]);
    let mut assign = |name: &str, value: OsString| {
        let mut variable = OsString::from(format!("{name}="));
        variable.push(value);
        command.arg(variable);
    };
    assign("PATH", search_path());
    for (name, value) in passed_on() {
        assign(&name, value);
    }
    for (name, value) in variables {
        assign(name, value.as_os_str().to_owned());
    }
    command.arg(program);
    Ok(command)
}

/// Fails if there is no way to become root.
pub(crate) fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        sudo().map(drop)
    }
}

/// Finds sudo, and makes sure that it works or that there is a terminal to ask for a password on.
fn sudo() -> Result<PathBuf> {
    const NEED: &str = "loading BPF programs and laying out network namespaces needs root \
                        (CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN)";
    let Some(sudo) = which("sudo") else {
        bail!("{NEED}, and there is no sudo; run this command as root");
    };
    let silent = Command::new(&sudo)
        .args(["-n", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !silent && !std::io::stdin().is_terminal() {
        bail!("{NEED}; sudo wants a password, but there is no terminal to ask on");
    }
    Ok(sudo)
}

/// The command as a user would type it.
fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
