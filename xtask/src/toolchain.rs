//! Finds what compiles the BPF object: a Rust compiler with a `core` for BPF, and bpf-linker.
//!
//! `cargo xtask setup` and the agent's build script share this file, so that the build uses exactly what setup
//! found or installed. Nothing here installs anything.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The target of the BPF object.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The bpf-linker that setup installs; any patch release of the same minor version will do.
pub(crate) const LINKER_VERSION: &str = "0.10.3";
/// The major version of LLVM in this bpf-linker; the compiler must have the same.
const LLVM_MAJOR: u32 = 22;
/// The workspace's `rust-version`.
const OLDEST_RUSTC: (u32, u32) = (1, 95);
/// How the names of the cache's directories with unpacked Debian compilers begin.
pub(crate) const DEBIAN_PREFIX: &str = "rustc-web-";

/// A Rust compiler that can build for [`TARGET`].
pub(crate) struct Compiler {
    /// The compiler itself, not rustup's proxy for it.
    pub(crate) rustc: PathBuf,
    /// The directory with its LLVM, for the compiler and for bpf-linker.
    pub(crate) libraries: PathBuf,
    /// Whether `core` must be compiled from rust-src because there is no compiled one.
    pub(crate) build_std: bool,
    /// `rustc`'s release, for people.
    release: String,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = if self.build_std {
            "core from rust-src"
        } else {
            "compiled core"
        };
        write!(
            f,
            "rustc {} with {core}, {}",
            self.release,
            self.rustc.display()
        )
    }
}

impl Compiler {
    /// Finds the first compiler that will do: one of rustup's, the system's, or the one in the cache. The error
    /// lists the compilers that were tried, and what each of them lacks.
    pub(crate) fn find() -> Result<Self> {
        let mut rejected: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for sysroot in sysroots() {
            match Self::probe(&sysroot) {
                Ok(compiler) => return Ok(compiler),
                Err(reason) => {
                    let same = rejected.entry(format!("{reason:#}")).or_default();
                    same.push(name(&sysroot));
                }
            }
        }
        let reasons: Vec<String> = rejected
            .iter()
            .map(|(reason, names)| format!("{}: {reason}", names.join(", ")))
            .collect();
        bail!(
            "no Rust compiler here can build for {TARGET} ({})",
            reasons.join("; ")
        )
    }

    /// Finds out whether the compiler in `sysroot` can build for BPF.
    pub(crate) fn probe(sysroot: &Path) -> Result<Self> {
        let rustlib = sysroot.join("lib/rustlib");
        let compiled = has_core(&rustlib.join(TARGET).join("lib"));
        if !compiled && !rustlib.join("src/rust/library/core").is_dir() {
            bail!("neither rust-src nor a core for {TARGET}");
        }
        let rustc = sysroot.join("bin/rustc");
        let libraries = libraries(sysroot).context("no LLVM library beside the compiler")?;
        let output = Command::new(&rustc)
            .arg("-vV")
            .env("LD_LIBRARY_PATH", &libraries)
            .output()
            .with_context(|| format!("cannot run {}", rustc.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!(
                "rustc -vV failed: {}",
                errors.lines().next().unwrap_or_default()
            );
        }
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .unwrap_or_default()
        };
        let (release, llvm) = (field("release"), field("LLVM version"));
        if numbers(release) < OLDEST_RUSTC {
            bail!(
                "rustc {release} is older than {}.{}",
                OLDEST_RUSTC.0,
                OLDEST_RUSTC.1
            );
        }
        if numbers(llvm).0 != LLVM_MAJOR {
            bail!("its LLVM is {llvm}, but bpf-linker {LINKER_VERSION} speaks LLVM {LLVM_MAJOR}");
        }
        Ok(Self {
            rustc,
            libraries,
            build_std: !compiled,
            release: release.to_owned(),
        })
    }
}

/// Finds bpf-linker, in a version that will do, in the cache or in `PATH`.
pub(crate) fn find_linker() -> Result<PathBuf> {
    let installed = linker_home()?.join("bin/bpf-linker");
    if installed.is_file() {
        return Ok(installed);
    }
    let mut reason = "not in PATH".to_owned();
    for directory in env::split_paths(&env::var_os("PATH").unwrap_or_default()) {
        let linker = directory.join("bpf-linker");
        if !linker.is_file() {
            continue;
        }
        let Ok(output) = Command::new(&linker).arg("--version").output() else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_whitespace().last().unwrap_or_default();
        if numbers(version) == numbers(LINKER_VERSION) {
            return Ok(linker);
        }
        reason = format!("{} is version {version}", linker.display());
    }
    bail!("bpf-linker {LINKER_VERSION} is missing ({reason})")
}

/// Where setup installs bpf-linker.
pub(crate) fn linker_home() -> Result<PathBuf> {
    Ok(cache()?.join(format!("bpf-linker-{LINKER_VERSION}")))
}

/// The user's cache directory for everything that setup installs.
pub(crate) fn cache() -> Result<PathBuf> {
    let path = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    path("XDG_CACHE_HOME")
        .or_else(|| Some(path("HOME")?.join(".cache")))
        .map(|cache| cache.join("truepeer"))
        .context("neither XDG_CACHE_HOME nor HOME names an absolute directory")
}

/// The cache's directories whose names begin with `prefix`, the newest version first.
pub(crate) fn cached(prefix: &str) -> Vec<PathBuf> {
    let Ok(cache) = cache() else {
        return Vec::new();
    };
    let mut found = directories(&cache, prefix);
    found.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        std::cmp::Reverse(numbers(name.strip_prefix(prefix).unwrap_or_default()))
    });
    found
}

/// Every place where a compiler may be, in order of preference.
fn sysroots() -> Vec<PathBuf> {
    let rustup = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".rustup")));
    let mut found = rustup.map_or_else(Vec::new, |home| directories(&home.join("toolchains"), ""));
    found.sort_by_key(|path| !path.to_string_lossy().contains("nightly"));
    if Path::new("/usr/bin/rustc").exists() {
        found.push("/usr".into());
    }
    found.extend(
        cached(DEBIAN_PREFIX)
            .into_iter()
            .map(|path| path.join("usr")),
    );
    found
}

/// A name for the compiler in `sysroot` that people know: rustup's toolchain, Debian's package, or the path.
fn name(sysroot: &Path) -> String {
    if sysroot == Path::new("/usr") {
        return "/usr/bin/rustc".to_owned();
    }
    let unpacked = sysroot.file_name() == Some("usr".as_ref());
    let directory = if unpacked {
        sysroot.parent()
    } else {
        Some(sysroot)
    };
    let name = directory.and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The directories in `parent` whose names begin with `prefix`.
fn directories(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Whether a compiled `core` lies in `directory`.
fn has_core(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    })
}

/// The directory of `sysroot` that holds LLVM: rustup's `lib`, or Debian's multiarch one.
fn libraries(sysroot: &Path) -> Option<PathBuf> {
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    ["lib", &multiarch]
        .into_iter()
        .map(|path| sysroot.join(path))
        .find(|path| {
            fs::read_dir(path).is_ok_and(|entries| {
                entries
                    .flatten()
                    .any(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM"))
            })
        })
}

/// The first two numbers of a version.
pub(crate) fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}
