//! A kernel of Debian's, unpacked and never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{archive::Archive, former, image};
use crate::{
    apt::Package,
    process::{output, which},
    setup::place,
    toolchain,
};

/// A kernel in the cache.
pub(crate) struct Kernel {
    /// Debian's version: 6.12.117-1.
    pub(crate) version: String,
    directory: PathBuf,
}

impl Kernel {
    /// Finds it in the cache or unpacks it there, with a line about it.
    pub(crate) fn install(archive: &Archive, package: &Package) -> Result<Self> {
        let version = package.version.clone();
        let cache = toolchain::cache()?;
        let directory = cache.join(format!("linux-{version}-{}", archive.architecture.name()));
        if directory.is_dir() {
            println!("kernels: Linux {version}: found {}", directory.display());
            return Ok(Self { version, directory });
        }
        println!("kernels: Linux {version}: downloading {}", package.name);
        let work = tempfile::tempdir_in(&cache)?;
        let root = work.path().join("root");
        archive.unpack(package, work.path(), &root)?;
        // Since 6.12 all is below /usr.
        let base = [root.join("usr"), root.clone()]
            .into_iter()
            .find(|base| base.join("lib/modules").is_dir())
            .with_context(|| format!("{} holds no modules", package.name))?;
        let modules = base.join("lib/modules");
        let release = only_entry(&modules)?;
        let name = release.file_name().unwrap_or_default().to_owned();
        // modprobe's index is made when a kernel is installed.
        let depmod = which("depmod").context("no depmod")?;
        output(Command::new(depmod).arg("-b").arg(&base).arg(&name))?;
        let binary = [
            release.join("vmlinuz"),
            root.join("boot")
                .join(format!("vmlinuz-{}", name.display())),
        ];
        let binary = binary
            .iter()
            .find(|path| path.is_file())
            .with_context(|| format!("{} holds no kernel where it used to", package.name))?;
        let new = work.path().join("new");
        fs::create_dir(&new)?;
        fs::rename(binary, new.join("vmlinuz"))?;
        image::make(&modules, &new.join("modules.img"), "modules", 0)?;
        place(&new, &directory)?;
        println!("kernels: Linux {version}: unpacked {}", directory.display());
        let series = toolchain::numbers(&version);
        let this = directory.file_name().unwrap_or_default().to_owned();
        former::remove(&cache, |name| {
            let of_this_series = name
                .strip_prefix("linux-")
                .and_then(|rest| rest.strip_suffix(&format!("-{}", archive.architecture.name())))
                .is_some_and(|version| toolchain::numbers(version) == series);
            of_this_series && *this != *name
        })?;
        Ok(Self { version, directory })
    }

    /// What the boot loader of another machine would load.
    pub(crate) fn binary(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The disk with `/lib/modules`.
    pub(crate) fn modules(&self) -> PathBuf {
        self.directory.join("modules.img")
    }
}

fn only_entry(directory: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(directory)?;
    let first = entries
        .next()
        .with_context(|| format!("{} is empty", directory.display()))?;
    Ok(first?.path())
}
