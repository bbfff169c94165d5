//! The end-to-end tests: which there are, and what they need to run.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{
    cargo::{Executable, HOST_CRATES, binary, cargo, executables},
    dist,
    process::output,
    tools,
};

/// The end-to-end tests that were chosen, built, and what they need.
pub(crate) struct Scenarios {
    /// The programs that have chosen tests.
    pub(crate) chosen: Vec<Chosen>,
    /// The programs that tests start, the agent among them.
    pub(crate) binaries: Vec<Executable>,
    truepeer: PathBuf,
    /// The image for clusters.
    pub(crate) image: PathBuf,
    /// Envoy, which no package brings.
    pub(crate) envoy: PathBuf,
    cluster: PathBuf,
}

/// The test program that runs in virtual machines only: a host's kernel may lack what it needs.
pub(crate) const IN_MACHINES: &str = "wire";

/// A test program.
pub(crate) struct Chosen {
    pub(crate) program: Executable,
    /// Those of its tests that were chosen; empty: all of them.
    pub(crate) tests: Vec<String>,
}

impl Scenarios {
    /// Installs what the end-to-end tests need, and builds those whose full names contain `filter`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn build(filter: Option<&str>) -> Result<Self> {
        let envoy = tools::install()?;
        let cluster = tools::install_cluster()?;
        let image = dist::test_image()?;
        let mut built = executables(
            cargo("test")
                .args(HOST_CRATES)
                .args(["--test", "*", "--no-run"]),
        )?;
        built.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
        let truepeer = binary(&built, "truepeer")?;
        let (programs, binaries): (Vec<_>, Vec<_>) =
            built.into_iter().partition(|built| built.is_test);
        let mut chosen = Vec::new();
        for program in programs {
            let tests = filter
                .map(|filter| matching(&program, filter))
                .transpose()?;
            if tests.as_ref().is_none_or(|tests| !tests.is_empty()) {
                let tests = tests.unwrap_or_default();
                chosen.push(Chosen { program, tests });
            }
        }
        if let (true, Some(filter)) = (chosen.is_empty(), filter) {
            bail!("no end-to-end test has \"{filter}\" in its name; `--unit` runs the others");
        }
        Ok(Self {
            chosen,
            binaries,
            truepeer,
            image,
            envoy,
            cluster,
        })
    }

    /// The variables by which the tests find what they need.
    pub(crate) fn variables(&self) -> [(&'static str, &Path); 4] {
        [
            ("TRUEPEER_BIN", &self.truepeer),
            ("TRUEPEER_IMAGE", &self.image),
            ("ENVOY_BIN", &self.envoy),
            ("CLUSTER_TOOLS", &self.cluster),
        ]
    }
}

/// The tests of a program that have the filter in their full names: `unwrap::tlvs::agent_killed_and_started`.
/// Words may be joined by `_` where the name has `::`.
fn matching(program: &Executable, filter: &str) -> Result<Vec<String>> {
    let plain = |name: &str| name.replace("::", "_");
    let mut list = Command::new(&program.path);
    list.args(["--list", "--format=terse"])
        .current_dir(&program.package);
    let listed = output(&mut list)?;
    let tests = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    Ok(tests
        .filter(|test| plain(&format!("{}::{test}", program.name)).contains(&plain(filter)))
        .map(str::to_owned)
        .collect())
}
