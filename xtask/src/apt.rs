//! apt with state of its own: reads package lists and downloads packages without root, and installs nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process::output;

/// apt with state of its own, which any user may update.
pub(crate) struct Apt {
    state: PathBuf,
    /// A list of sources instead of the system's, and whose packages are wanted of them.
    sources: Option<(PathBuf, String)>,
}

/// What apt knows about one version of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) depends: String,
}

impl Apt {
    /// With the system's own sources; its state goes below `work`.
    pub(crate) fn new(work: &Path) -> Result<Self> {
        let state = work.join("apt");
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(directory))?;
        }
        Ok(Self {
            state,
            sources: None,
        })
    }

    /// With these lines of sources.list(5) instead of the system's sources, for packages of this architecture.
    pub(crate) fn with_sources(work: &Path, lines: &str, architecture: &str) -> Result<Self> {
        let mut apt = Self::new(work)?;
        let sources = apt.state.join("sources.list");
        fs::write(&sources, lines)?;
        apt.sources = Some((sources, architecture.to_owned()));
        Ok(apt)
    }

    /// Where packages are downloaded to by `apt-get install --download-only`.
    pub(crate) fn archives(&self) -> PathBuf {
        self.state.join("cache/archives")
    }

    /// A program of apt that uses this state.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let state = self.state.display();
        let mut options = vec![
            format!("Dir::State={state}"),
            format!("Dir::Cache={state}/cache"),
            "Dir::State::status=/var/lib/dpkg/status".to_owned(),
            "Debug::NoLocking=1".to_owned(),
            // The user _apt cannot write to this user's cache.
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ];
        if let Some((sources, architecture)) = &self.sources {
            options.push(format!("APT::Architecture={architecture}"));
            // Without the others that this host may have.
            options.push(format!("APT::Architectures={architecture}"));
            options.push(format!("Dir::Etc::sourcelist={}", sources.display()));
            options.push("Dir::Etc::sourceparts=-".to_owned());
        }
        for option in options {
            command.arg("-o").arg(option);
        }
        command.arg("-qq").env("LC_ALL", "C");
        command
    }

    /// The candidate of `package`.
    pub(crate) fn show(&self, package: &str) -> Result<Package> {
        let text = output(
            self.command("apt-cache")
                .args(["show", "--no-all-versions", package]),
        )
        .with_context(|| format!("the package archive has no {package}"))?;
        let found = Package::parse_all(&text).into_iter().next();
        found.with_context(|| format!("the package archive does not describe {package}"))
    }

    /// Every version of every package whose name matches this regular expression.
    pub(crate) fn search(&self, names: &str) -> Result<Vec<Package>> {
        let found = output(
            self.command("apt-cache")
                .args(["search", "--names-only", names]),
        )?;
        let found: Vec<_> = found
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let text = output(self.command("apt-cache").arg("show").args(found))?;
        Ok(Package::parse_all(&text))
    }
}

impl Package {
    /// Packages as `apt-cache show` describes them, in paragraphs of deb822(5).
    fn parse_all(text: &str) -> Vec<Self> {
        let parse = |paragraph: &str| {
            let field = |name: &str| {
                paragraph
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                    .map(str::to_owned)
            };
            Some(Self {
                name: field("Package")?,
                version: field("Version")?,
                depends: field("Depends").unwrap_or_default(),
            })
        };
        text.split("\n\n").filter_map(parse).collect()
    }

    /// The names of what it depends on, alternatives among them.
    pub(crate) fn dependencies(&self) -> impl Iterator<Item = &str> {
        self.depends
            .split([',', '|'])
            .filter_map(|dependency| dependency.split_whitespace().next())
    }

    /// The first dependency whose name begins with `prefix`.
    pub(crate) fn dependency(&self, prefix: &str) -> Result<&str> {
        self.dependencies()
            .find(|name| name.starts_with(prefix))
            .with_context(|| format!("{} {} does not depend on {prefix}", self.name, self.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_is_found_by_the_beginning_of_its_name() {
        let package = Package {
            name: "rustc-web".to_owned(),
            version: "1.96.0+dfsg1-1~deb12u2".to_owned(),
            depends: "libc6 (>= 2.34), libstd-rust-web-dev (= 1.96.0), gcc | clang".to_owned(),
        };
        assert_eq!(
            package.dependency("libstd-rust-").unwrap(),
            "libstd-rust-web-dev"
        );
        assert_eq!(package.dependency("clang").unwrap(), "clang");
        let error = package.dependency("libllvm").unwrap_err().to_string();
        assert_eq!(
            error,
            "rustc-web 1.96.0+dfsg1-1~deb12u2 does not depend on libllvm"
        );
    }

    #[test]
    fn every_paragraph_is_a_version_of_a_package() {
        let text = "Package: a\nVersion: 2\nDepends: b (= 2)\nDescription: one\n two\n\n\
                    Package: a\nVersion: 1\nDescription: one\n\nDescription: none\n";
        let found = Package::parse_all(text);
        let versions: Vec<_> = found.iter().map(|p| p.version.as_str()).collect();
        assert_eq!(versions, ["2", "1"]);
        assert_eq!(found[0].dependencies().collect::<Vec<_>>(), ["b"]);
        assert_eq!(found[1].dependencies().count(), 0);
    }
}
