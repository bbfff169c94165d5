//! `cargo xtask lint`: format, clippy, and the rules of this house that no other tool knows.

mod confined;
mod finding;
mod floors;
mod imports;
mod modules;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    cargo::{cargo, root},
    chores::HOST_CRATES,
    process::run,
    setup,
};
use finding::Finding;
use floors::Order;
use modules::House;

/// What can be checked alone.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// `cargo fmt`
    Format,
    /// Who imports whom, by xtask/floors.toml
    Floors,
    /// `cargo clippy`
    Clippy,
}

/// Runs one check, or all of them.
pub(crate) fn lint(only: Option<Check>) -> Result<()> {
    let wanted = |check| only.is_none_or(|only| only == check);
    if wanted(Check::Format) {
        run(cargo("fmt").args(["--all", "--check"]))?;
    }
    if wanted(Check::Floors) {
        floors(root())?;
    }
    if wanted(Check::Clippy) {
        clippy()?;
    }
    Ok(())
}

/// Runs clippy on everything.
fn clippy() -> Result<()> {
    setup::toolchain()?;
    run(cargo("clippy")
        .args(HOST_CRATES)
        .args(["--all-targets", "--", "--deny", "warnings"]))?;
    // The BPF compiler may come without clippy; the host's checks the same code.
    run(cargo("clippy")
        .args(["--package", "agent-ebpf", "--", "--deny", "warnings"])
        .env("CARGO_PROFILE_DEV_PANIC", "abort"))
}

/// Checks who imports whom.
pub(crate) fn floors(root: &Path) -> Result<()> {
    let order = Order::read(root)?;
    let house = House::read(root, order.crates.keys().map(String::as_str))?;
    let mut found = floors::check(&order, &house)?;
    found.extend(confined::check(&order, &house));
    report("floors", &found)
}

/// Prints what was found; fails if anything was.
fn report(check: &str, found: &[Finding]) -> Result<()> {
    for finding in found {
        eprintln!("{finding}");
    }
    if !found.is_empty() {
        bail!("{check}: {} findings", found.len());
    }
    Ok(())
}
