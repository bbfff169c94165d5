//! Compiles the BPF programs and tells the agent where their object is.

#[path = "../xtask/src/layouts.rs"]
mod layouts;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use toolchain::{Compiler, TARGET};

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
    for path in ["src/layouts.rs", "src/toolchain.rs", "bpf-link.sh"] {
        println!("cargo:rerun-if-changed=../xtask/{path}");
    }

    let missing = "cannot build the BPF programs; type `cargo xtask setup`";
    let compiler = Compiler::find().context(missing)?;
    let linker = toolchain::find_linker().context(missing)?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").context("cargo sets its target")?;
    let target_dir = shared(&out_dir, &architecture)?;
    let output = compile(&compiler, &linker, &target_dir, &architecture)
        .output()
        .context("cannot run cargo for the BPF programs")?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the BPF programs do not compile\n{messages}");
    }
    for line in messages.lines().filter(|line| !line.is_empty()) {
        println!("cargo:warning={line}");
    }
    let bytes = fs::read(target_dir.join(TARGET).join("release/truepeer"))?;
    let object = out_dir.join("truepeer.o");
    fs::write(&object, &bytes)?;
    println!("cargo:rustc-env=TRUEPEER_OBJECT={}", object.display());
    let layouts = layouts::layouts(&bytes).context("the BPF object's types")?;
    let layouts: Vec<_> = layouts.into_iter().collect();
    fs::write(out_dir.join("layouts.rs"), format!("&{layouts:?}"))?;
    Ok(())
}

/// The target directory of the programs for hosts of this architecture: they are the same for whatever target, profile and
/// tools the agent is built, and so they are compiled once. The outer cargo does not lock it.
fn shared(out_dir: &Path, architecture: &str) -> Result<PathBuf> {
    let triple = env::var("TARGET").context("cargo sets TARGET")?;
    // `TARGET_DIR/[TRIPLE/]PROFILE/build/PACKAGE/out`
    let mut parents = out_dir.ancestors().skip(4);
    let mut target_dir = parents.next().context("cargo's target directory")?;
    if target_dir.ends_with(triple) {
        target_dir = parents.next().context("cargo's target directory")?;
    }
    Ok(target_dir.join("bpf").join(architecture))
}

/// The cargo command that compiles the object for hosts of this architecture, with nothing of the outer build's environment.
fn compile(compiler: &Compiler, linker: &Path, target_dir: &Path, architecture: &str) -> Command {
    // build-std is the work of the toolchain's own cargo, where it has one.
    let own = compiler.rustc.with_file_name("cargo");
    let cargo = if compiler.build_std && own.exists() {
        own.into_os_string()
    } else {
        env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
    };
    let mut command = Command::new(cargo);
    for (name, _) in env::vars_os() {
        if leaks(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
        .args([
            "build",
            "--package",
            "agent-ebpf",
            "--release",
            "--locked",
            "--quiet",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(target_dir);
    if compiler.build_std {
        command.args(["-Z", "build-std=core"]);
    }
    let flags = [
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
        format!(
            "-Clinker={}/../xtask/bpf-link.sh",
            env!("CARGO_MANIFEST_DIR")
        ),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    command
        .env("RUSTC", &compiler.rustc)
        .env("LD_LIBRARY_PATH", &compiler.libraries)
        .env("BPF_LINKER", linker)
        // An empty wrapper overrides one from the user's cargo configuration.
        .env("RUSTC_WRAPPER", "")
        // The target is unstable, also for a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        // bpf-linker optimises across crates itself, and BTF must survive.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none");
    command
}

/// Whether a variable of an outer build would change the BPF build.
fn leaks(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_MANIFEST_DIR",
        "CARGO_TARGET_DIR",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
    ];
    const PREFIXES: [&str; 5] = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
