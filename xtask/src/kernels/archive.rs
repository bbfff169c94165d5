//! Debian's kernels, from whichever suite has them, through the mirror that this host's apt is configured with.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::architecture::Architecture;
use crate::{
    apt::{Apt, Package},
    process::output,
    toolchain,
};

/// Suites that have kernels: the stable ones with their long-term kernel, the others with the newest. Backports keep
/// one of each series between.
const SUITES: [&str; 4] = ["bookworm", "trixie", "trixie-backports", "sid"];
/// What verifies the suites' signatures, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How old the package lists may become: a new kernel is in use soon enough, and 30 MB are not read at each run.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The packages of all [`SUITES`].
pub(crate) struct Archive {
    apt: Apt,
    /// As in sources.list(5).
    pub(crate) mirror: String,
    /// The suite of this host, as which the guest's system is built: what is compiled here runs on its C library.
    pub(crate) suite: String,
    /// Whose packages they are.
    pub(crate) architecture: Architecture,
}

/// Which kernel is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Of this series, such as 6.12: the newest of it.
    Series(u32, u32),
    /// The newest of all.
    Newest,
}

impl Wanted {
    /// As given on the command line: `6.12`, or `newest`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text == "newest" {
            return Ok(Self::Newest);
        }
        let numbers = text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let (major, minor) =
            numbers.with_context(|| format!("\"{text}\" is no kernel: 6.12, newest, or all"))?;
        Ok(Self::Series(major, minor))
    }

    fn takes(&self, version: &str) -> bool {
        // What will be released as 7.4 is 7.4~rc1 before.
        !version.contains("~rc")
            && match *self {
                Self::Series(major, minor) => toolchain::numbers(version) == (major, minor),
                Self::Newest => true,
            }
    }
}

impl Archive {
    /// Reads the package lists, unless they are fresh.
    ///
    /// # Errors
    ///
    /// Where the host is no Debian, or knows no mirror.
    pub(crate) fn open(architecture: Architecture) -> Result<Self> {
        let suite = suite()?;
        let mirror = mirror(&suite)?;
        let mut state = toolchain::cache()?.join("kernels");
        if !architecture.is_own() {
            state.push(architecture.name());
        }
        let lines =
            SUITES.map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"));
        let apt = Apt::with_sources(&state, &lines.concat(), architecture.name())?;
        let updated = state.join(format!("lists-of-{}", SUITES.join("-")));
        let age = fs::metadata(&updated)
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if age.is_none_or(|age| age > FRESH) {
            println!(
                "kernels: apt: reading the package lists of {}",
                SUITES.join(", ")
            );
            let update = output(apt.command("apt-get").arg("update").args([
                "-oAcquire::Languages=none",
                "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            ]));
            match update {
                Ok(_) => fs::write(&updated, "")?,
                Err(error) if age.is_some() => {
                    println!("kernels: apt: those of the last time are used: {error:#}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            apt,
            mirror,
            suite,
            architecture,
        })
    }

    /// The newest package with a kernel that is wanted, of the flavour for virtual machines.
    pub(crate) fn find(&self, wanted: &Wanted) -> Result<Package> {
        let names = format!("^linux-image-[0-9].*-cloud-{}$", self.architecture.name());
        let found = self.apt.search(&names)?.into_iter();
        let newest = found
            .filter(|package| wanted.takes(&package.version))
            .max_by_key(|package| order(&package.version));
        newest.with_context(|| match wanted {
            Wanted::Series(major, minor) => {
                format!("none of {} has Linux {major}.{minor}", SUITES.join(", "))
            }
            Wanted::Newest => format!("none of {} has a kernel", SUITES.join(", ")),
        })
    }

    /// Downloads a kernel's package, and since Linux 6.19 those that its parts are in, and unpacks them all into `root`.
    pub(crate) fn unpack(&self, package: &Package, work: &Path, root: &Path) -> Result<()> {
        let parts = package
            .dependencies()
            .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"));
        let version = |name: &str| format!("{name}={}", package.version);
        let debs = work.join("debs");
        fs::create_dir(&debs)?;
        output(
            self.apt
                .command("apt-get")
                .arg("download")
                .arg(version(&package.name))
                .args(parts.map(version))
                .current_dir(&debs),
        )?;
        for deb in fs::read_dir(&debs)? {
            output(Command::new("dpkg").arg("-x").arg(deb?.path()).arg(root))?;
        }
        Ok(())
    }
}

/// The codename of this host's release of Debian.
fn suite() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot tell which system this is")?;
    let field = |name: &str| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.trim_matches('"').to_owned())
    };
    if field("ID").as_deref() != Some("debian") {
        bail!(
            "the virtual machines run Debian, of the same release as this host: what is compiled here must run there. \
             This host is {}",
            field("PRETTY_NAME").unwrap_or_else(|| "another system".to_owned())
        );
    }
    field("VERSION_CODENAME").context("/etc/os-release names no release")
}

/// Where apt gets this release of Debian from.
fn mirror(suite: &str) -> Result<String> {
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(RELEASE) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    targets
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(release, _)| *release == suite)
        .map(|(_, uri)| uri.to_owned())
        .with_context(|| format!("apt has no source for {suite}"))
}

/// What orders versions of Debian's kernels as dpkg does: their numbers, one after the other.
fn order(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_told_from_a_longer_number() {
        let wanted = Wanted::parse("6.1").unwrap();
        assert!(wanted.takes("6.1.176-1"));
        assert!(!wanted.takes("6.12.117-1"));
        assert!(!wanted.takes("6.19.10-1~bpo13+1"));
        assert!(Wanted::Newest.takes("7.3.4-1~bpo13+1"));
        assert!(!Wanted::Newest.takes("7.4~rc7-1~exp1"));
        let error = Wanted::parse("old").unwrap_err().to_string();
        assert_eq!(error, "\"old\" is no kernel: 6.12, newest, or all");
    }

    #[test]
    fn the_newest_version_is_the_last_in_order() {
        let versions = [
            "6.1.176-1",
            "6.1.192-2",
            "6.12.95-1~bpo12+1",
            "6.12.117-1",
            "7.3.4-1~bpo13+1",
        ];
        assert!(versions.is_sorted_by_key(|version| order(version)));
    }
}
