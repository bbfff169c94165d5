//! `cargo xtask setup`: finds or installs what compiles the BPF object.
//!
//! Everything that it installs goes into the user's cache directory, so that it needs no root and changes nothing
//! on the system.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt::Apt,
    process::{output, run, which},
    toolchain::{self, Compiler, DEBIAN_PREFIX, LINKER_VERSION},
};

/// A nightly toolchain with the same LLVM as bpf-linker.
const NIGHTLY: &str = "nightly-2026-05-20";

/// Finds or installs the whole toolchain, and prints a line about each part.
pub(crate) fn toolchain() -> Result<()> {
    let compiler = match Compiler::find() {
        Ok(compiler) => {
            println!("setup: BPF compiler: found {compiler}");
            compiler
        }
        Err(missing) => {
            println!("setup: BPF compiler: {missing}");
            let compiler = install_compiler()?;
            println!("setup: BPF compiler: installed {compiler}");
            compiler
        }
    };
    match toolchain::find_linker() {
        Ok(linker) => println!("setup: bpf-linker: found {}", linker.display()),
        Err(missing) => {
            println!("setup: {missing}; compiling it takes about two minutes");
            println!(
                "setup: bpf-linker: installed {}",
                install_linker(&compiler)?.display()
            );
        }
    }
    Ok(())
}

/// Finds or installs the standard library for `triple`.
pub(crate) fn target(triple: &str) -> Result<()> {
    let library =
        output(Command::new("rustc").args(["--print", "target-libdir", "--target", triple]))?;
    if Path::new(library.trim()).is_dir() {
        return Ok(());
    }
    println!("setup: {triple}: installing it with rustup");
    run(Command::new("rustup").args(["target", "add", triple]))
        .with_context(|| format!("cannot install what Rust needs to build for {triple}"))
}

/// Installs a compiler in the first way that this machine offers.
fn install_compiler() -> Result<Compiler> {
    let mut failed = Vec::new();
    if which("apt-get").is_some() && which("dpkg").is_some() {
        match unpack_debian() {
            Ok(sysroot) => return Compiler::probe(&sysroot),
            Err(error) => failed.push(format!("Debian's rustc-web: {error:#}")),
        }
    }
    if which("rustup").is_some() {
        println!("setup: rustup: installing {NIGHTLY} with rust-src");
        let install = run(Command::new("rustup").args([
            "toolchain",
            "install",
            NIGHTLY,
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]));
        match install {
            Ok(()) => return Compiler::find(),
            Err(error) => failed.push(format!("rustup: {error:#}")),
        }
    }
    bail!(
        "no compiler for BPF could be installed ({}); either type `rustup toolchain install {NIGHTLY} \
         --profile minimal --component rust-src`, or use a Debian whose archive has rustc-web 1.95 or \
         later, where this command unpacks it",
        failed.join("; ")
    )
}

/// Downloads Debian's rustc-web with the libraries that this system lacks, and unpacks them into the cache. The
/// packages are not installed, because they would conflict with other compilers.
fn unpack_debian() -> Result<PathBuf> {
    let cache = toolchain::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let work = tempfile::tempdir_in(&cache)?;
    let apt = Apt::new(work.path())?;

    println!("setup: apt: reading the package lists");
    // One unreachable third-party source does not matter; if a package is missing, the error below says so.
    let updated = output(apt.command("apt-get").arg("update"));
    let show = |package: &str| {
        apt.show(package).or_else(|error| match &updated {
            Ok(_) => Err(error),
            Err(update) => bail!("{error:#}; apt-get update: {update:#}"),
        })
    };
    let compiler = show("rustc-web")?;
    if toolchain::numbers(&compiler.version) < (1, 95) {
        bail!("this archive has rustc-web {} only", compiler.version);
    }
    let dev = compiler.dependency("libstd-rust-web-dev")?;
    let runtime = show(dev)?.dependency("libstd-rust-web-")?.to_owned();
    let llvm = show(&runtime)?.dependency("libllvm")?.to_owned();

    let packages = ["rustc-web", dev, "libstd-rust-web-dev-bpf", &runtime, &llvm];
    println!(
        "setup: apt: downloading rustc-web {} ({})",
        compiler.version,
        packages[1..].join(", ")
    );
    let debs = work.path().join("debs");
    fs::create_dir(&debs)?;
    output(
        apt.command("apt-get")
            .arg("download")
            .args(packages)
            .current_dir(&debs),
    )?;
    // LLVM's own libraries, where the system lacks them.
    output(apt.command("apt-get").args([
        "install",
        "--download-only",
        "--yes",
        "--no-install-recommends",
        &llvm,
    ]))?;

    let root = work.path().join("root");
    for directory in [&debs, &apt.archives()] {
        for entry in fs::read_dir(directory)? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                output(Command::new("dpkg").arg("-x").args([&deb, &root]))?;
            }
        }
    }
    place(
        &root,
        &cache.join(format!("{DEBIAN_PREFIX}{}", compiler.version)),
    )
    .map(|root| root.join("usr"))
}

/// Installs bpf-linker into the cache with `cargo install`.
fn install_linker(compiler: &Compiler) -> Result<PathBuf> {
    let cache = toolchain::cache()?;
    fs::create_dir_all(&cache)?;
    let work = tempfile::tempdir_in(&cache)?;
    let root = work.path().join("root");
    run(Command::new("cargo")
        .args([
            "install",
            "--quiet",
            "--locked",
            "--version",
            LINKER_VERSION,
            "bpf-linker",
        ])
        .arg("--root")
        .arg(&root)
        .arg("--target-dir")
        .arg(work.path().join("target"))
        // Its build reads the symbols of the compiler's LLVM.
        .env("LD_LIBRARY_PATH", &compiler.libraries))
    .context("cannot install bpf-linker; it needs a C compiler and the crates registry")?;
    place(&root, &toolchain::linker_home()?)?;
    toolchain::find_linker()
}

/// Moves a finished directory to its place in one step, so that nobody ever sees half of it there.
pub(crate) fn place(finished: &Path, place: &Path) -> Result<PathBuf> {
    match fs::rename(finished, place) {
        Ok(()) => {}
        // Another setup was quicker, and has installed the same.
        Err(_) if place.is_dir() => {}
        Err(error) => return Err(error).context(format!("cannot create {}", place.display())),
    }
    Ok(place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_first_two_numbers() {
        assert_eq!(toolchain::numbers("1.97.0-nightly"), (1, 97));
        assert_eq!(toolchain::numbers("22.1.8"), (22, 1));
        assert_eq!(toolchain::numbers("1.96.0+dfsg1-1~deb12u2"), (1, 96));
        assert_eq!(toolchain::numbers(""), (0, 0));
    }
}
