//! `cargo xtask lint`: format, clippy, and the rules of this house that no other tool knows.

mod confined;
mod documents;
mod finding;
mod floors;
mod imports;
mod links;
mod markdown;
mod modules;
mod shell;
#[cfg(test)]
mod tests;

use std::env;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    cargo::{HOST_CRATES, binary, cargo, executables, root},
    process::run,
    setup,
};
use documents::Programs;
use finding::Finding;
use floors::Order;
use markdown::Document;
use modules::House;

/// What can be checked alone.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// `cargo fmt`
    Format,
    /// Who imports whom, by xtask/floors.toml
    Floors,
    /// Commands, configurations and links in documents
    Documents,
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
        floors()?;
    }
    if wanted(Check::Documents) {
        setup::toolchain()?;
        documents()?;
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
pub(crate) fn floors() -> Result<()> {
    let order = Order::read(root())?;
    let house = House::read(root(), order.crates.keys().map(String::as_str))?;
    let mut found = floors::check(&order, &house)?;
    found.extend(confined::check(&order, &house));
    report("floors", &found)
}

/// Checks what documents tell to type, and where their links lead.
pub(crate) fn documents() -> Result<()> {
    let built = executables(
        cargo("build")
            // Libraries have the same features then as in tests, and are compiled once.
            .args(HOST_CRATES)
            .args(["--bin", "truepeer", "--bin", "bench"]),
    )?;
    let programs = Programs {
        truepeer: binary(&built, "truepeer")?,
        xtask: env::current_exe()?,
        bench: binary(&built, "bench")?,
    };
    let documents = Document::read_all(root())?;
    let mut found = documents::check(root(), &documents, &programs)?;
    found.extend(links::check(root(), &documents));
    report("documents", &found)
}

/// Prints what was found; fails if anything was.
fn report(check: &str, found: &[Finding]) -> Result<()> {
    for finding in found {
        eprintln!("{finding}");
    }
    if !found.is_empty() {
        bail!("{check}: {} problems", found.len());
    }
    Ok(())
}
