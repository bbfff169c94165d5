//! `cargo xtask dist`: static binaries, their manual pages and completions, an image, and checksums.

mod archive;
mod image;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use self::{archive::Archive, image::Layout};
use crate::{
    cargo::{binary, cargo, executables, root},
    process::output,
    setup,
};

/// The files that accompany the binary, and where they go.
const FILES: [(&str, &str); 4] = [
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    (
        "deploy/systemd/truepeer.service",
        "lib/systemd/system/truepeer.service",
    ),
    (
        "deploy/apparmor/truepeer",
        "share/apparmor/extra-profiles/truepeer",
    ),
];

/// Each shell, and where its completions go.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/truepeer"),
    ("fish", "share/fish/vendor_completions.d/truepeer.fish"),
    ("zsh", "share/zsh/site-functions/_truepeer"),
];

/// What a binary is built for. musl links statically, and needs nothing installed but the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    #[value(name = "x86_64-unknown-linux-musl")]
    X86_64,
    #[value(name = "aarch64-unknown-linux-musl")]
    Aarch64,
}

impl Target {
    /// The architecture's name in compilers.
    pub(crate) fn architecture(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The architecture's name in images.
    pub(crate) fn platform(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    pub(crate) fn triple(self) -> String {
        format!("{}-unknown-linux-musl", self.architecture())
    }

    /// The target whose binaries run here.
    pub(crate) fn own() -> Result<Self> {
        Self::value_variants()
            .iter()
            .copied()
            .find(|target| target.architecture() == env::consts::ARCH)
            .with_context(|| format!("truepeer is not built for {}", env::consts::ARCH))
    }

    /// Has a cargo command build for it.
    pub(crate) fn select(self, command: &mut Command) {
        let triple = self.triple();
        command.args(["--target", &triple]);
        // The host's linker links for the host only, Rust's own for every target.
        let name = triple.to_uppercase().replace('-', "_");
        command.env(format!("CARGO_TARGET_{name}_LINKER"), "rust-lld");
    }

    /// Builds the agent; returns the binary.
    fn build(self, release: bool) -> Result<PathBuf> {
        setup::target(&self.triple())?;
        let mut command = cargo("build");
        command.args(["--package", "agent"]);
        if release {
            command.arg("--release");
        }
        self.select(&mut command);
        binary(&executables(&mut command)?, "truepeer")
    }
}

/// Makes everything for these targets, by default for all, in `target/dist`; prints each file and its size.
pub(crate) fn dist(targets: &[Target]) -> Result<()> {
    setup::toolchain()?;
    let targets = match targets {
        [] => Target::value_variants(),
        chosen => chosen,
    };
    let directory = root().join("target/dist");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let documents = documents(&Target::own()?.build(true)?)?;
    let mut layout = Layout::default();
    let mut files = Vec::new();
    for target in targets {
        let truepeer = fs::read(target.build(true)?)?;
        tell(&format!("truepeer for {}", target.triple()), truepeer.len());
        let layer = layout.add(target.platform(), &truepeer)?;
        tell(&format!("image for linux/{}", target.platform()), layer);

        let name = format!("{}-{}", versioned(), target.architecture());
        let mut archive = Archive::default();
        archive.add(format!("{name}/bin/truepeer"), 0o755, truepeer);
        for (path, bytes) in &documents {
            archive.add(format!("{name}/{path}"), 0o644, bytes.clone());
        }
        files.push((format!("{name}.tar.gz"), archive::gzip(&archive.tar()?)?));
    }
    layout.write(&directory.join("image"))?;
    files.push((format!("{}.oci.tar", versioned()), layout.tar()?));

    let mut sums = String::new();
    for (name, bytes) in &files {
        fs::write(directory.join(name), bytes)?;
        tell(&directory.join(name).display().to_string(), bytes.len());
        sums += &format!("{}  {name}\n", archive::sha256(bytes));
    }
    fs::write(directory.join("SHA256SUMS"), sums)?;
    Ok(())
}

/// Makes a layout with an image of this host's architecture, not optimised, for the end-to-end tests.
pub(crate) fn test_image() -> Result<PathBuf> {
    let mut layout = Layout::default();
    let own = Target::own()?;
    layout.add(own.platform(), &fs::read(own.build(false)?)?)?;
    let directory = root().join("target/test-image");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    layout.write(&directory)?;
    Ok(directory)
}

/// The files that accompany a binary, by their paths: licences, unit, manual pages and completions.
fn documents(truepeer: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut documents = Vec::new();
    for (from, to) in FILES {
        documents.push((to.to_owned(), fs::read(root().join(from))?));
    }
    for (shell, path) in SHELLS {
        let text = output(Command::new(truepeer).args(["completions", shell]))?;
        documents.push((path.to_owned(), text.into_bytes()));
    }
    let mut pages = vec![Vec::new()];
    while let Some(words) = pages.pop() {
        let text = output(Command::new(truepeer).arg("man").args(&words))?;
        let name = [&["truepeer".to_owned()], &words[..]].concat().join("-");
        // A page names the pages of its subcommands.
        let below = format!("{}\\-", name.replace('-', "\\-"));
        pages.extend(text.lines().filter_map(|line| {
            let subcommand = line.strip_prefix(&below)?.strip_suffix("(1)")?;
            // Its pages would say the same again.
            if subcommand == "help" {
                return None;
            }
            Some([&words[..], &[subcommand.replace("\\-", "-")]].concat())
        }));
        documents.push((format!("share/man/man1/{name}.1"), text.into_bytes()));
    }
    Ok(documents)
}

fn versioned() -> String {
    format!("truepeer-{}", env!("CARGO_PKG_VERSION"))
}

fn tell(what: &str, size: usize) {
    println!("{what}: {:.1} MB", size as f64 / 1e6);
}
