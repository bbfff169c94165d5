//! What a machine is given to do: a disk with a script and what it runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::image;
use crate::cargo::{binary, cargo, executables};

/// The first process of a machine.
const INIT: &str = include_str!("init.sh");
/// Room on the disk for what the job writes.
const FREE: u64 = 256 << 20;

/// A job, and the directory in which its disk is.
pub(crate) struct Job {
    work: TempDir,
    disk: PathBuf,
}

impl Job {
    /// The load matrix with the agent, both optimised, as they are handed out.
    pub(crate) fn matrix() -> Result<Self> {
        let mut command = cargo("build");
        command
            .args(["--release", "--package", "agent", "--package", "tests"])
            .args(["--bin", "truepeer", "--bin", "matrix"]);
        let built = executables(&mut command)?;
        let job = Self::new()?;
        job.add(&binary(&built, "truepeer")?, "truepeer")?;
        job.add(&binary(&built, "matrix")?, "matrix")?;
        job.finish("TRUEPEER_BIN=/job/truepeer exec ./matrix")
    }

    /// The end-to-end tests whose names contain `filter`.
    pub(crate) fn scenarios(filter: Option<&str>) -> Result<Self> {
        let _ = filter;
        bail!("not yet")
    }

    /// The disk; it is there as long as this value.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }

    fn new() -> Result<Self> {
        let work = tempfile::tempdir()?;
        let job = Self {
            disk: work.path().join("job.img"),
            work,
        };
        fs::create_dir(job.directory())?;
        Ok(job)
    }

    fn directory(&self) -> PathBuf {
        self.work.path().join("job")
    }

    /// Puts a file on the disk, by this name.
    fn add(&self, file: &Path, name: &str) -> Result<()> {
        let to = self.directory().join(name);
        fs::copy(file, to).with_context(|| format!("cannot copy {}", file.display()))?;
        Ok(())
    }

    /// Makes the disk, with `script` as what is to be done.
    fn finish(self, script: &str) -> Result<Self> {
        fs::write(self.directory().join("init"), INIT)?;
        fs::write(self.directory().join("run"), script)?;
        image::make(&self.directory(), &self.disk, FREE)?;
        Ok(self)
    }
}
