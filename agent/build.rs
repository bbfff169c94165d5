//! Compiles the BPF programs and tells the agent where their object is.

#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "setup needs more of it than the build")]
mod toolchain;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use toolchain::Toolchain;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    for path in ["agent-ebpf", "agent-common"] {
        println!("cargo:rerun-if-changed=../{path}/src");
        println!("cargo:rerun-if-changed=../{path}/Cargo.toml");
    }
    println!("cargo:rerun-if-changed=../xtask/src/toolchain.rs");

    let target_dir =
        PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?).join("bpf");
    let toolchain = Toolchain::find().context("cannot build the BPF object; type `cargo xtask setup`")?;
    let output = toolchain
        .cargo("build", &target_dir)
        .output()
        .context("cannot run cargo for the BPF object")?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the BPF programs do not compile\n{messages}");
    }
    for line in messages.lines().filter(|line| !line.is_empty()) {
        println!("cargo:warning={line}");
    }
    println!("cargo:rustc-env=TRUEPEER_OBJECT={}", Toolchain::object(&target_dir).display());
    Ok(())
}
