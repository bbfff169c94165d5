//! What a machine is given to do: a disk with a script, and with what the script runs.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{architecture::Architecture, image, machine::PEER};
use crate::{
    cargo::{Executable, HOST_CRATES, binary, cargo, executables, root},
    process::{output, passed_on, which},
    scenarios::{Chosen, IN_MACHINES, Scenarios},
};

/// The first process of a machine.
const INIT: &str = include_str!("init.sh");
/// The test program that is about manifests and documents.
const WITHOUT_KERNEL: &str = "ship";
/// With what the names of scenarios of [`IN_MACHINES`] begin that have a peer.
const WITH_PEER: &str = "pair::";
/// As many connections as an emulated processor has time for; whoever runs the command may say otherwise.
const EMULATED: &str = "TRUEPEER_LOAD=0.1";
/// Room on the disk for what the job writes.
const FREE: u64 = 256 << 20;

/// A job, and the directory in which its disk is made.
pub(crate) struct Job {
    work: TempDir,
    disk: PathBuf,
    /// Directories that the guest sees where this host has them: tests know some paths from when they were built.
    directories: Vec<PathBuf>,
    /// Lines of the script.
    script: String,
    has_peer: bool,
}

impl Job {
    /// The load matrix, with the agent as it is handed out. Only tests whose names contain `filter`.
    pub(crate) fn matrix(architecture: Architecture, filter: Option<&str>) -> Result<Self> {
        let truepeer = agent(architecture)?;
        let mut command = cargo("test");
        command.args(["--package", "tests", "--test", "matrix", "--no-run"]);
        architecture.select(&mut command)?;
        let built = executables(&mut command)?;
        let matrix = built
            .iter()
            .find(|built| built.is_test)
            .context("cargo built no load matrix")?;
        let mut job = Self::new(architecture)?;
        job.add(&truepeer)?;
        job.add(&binary(&built, "playground")?)?;
        job.add(&matrix.path)?;
        let arguments: Vec<_> = filter.into_iter().collect();
        job.run(
            &matrix.path,
            &matrix.package,
            &[("TRUEPEER_BIN", &truepeer)],
            &arguments,
        )?;
        job.finish()
    }

    /// The end-to-end tests, all or those whose full names contain `filter`, with the agent as it is handed out.
    pub(crate) fn scenarios(architecture: Architecture, filter: Option<&str>) -> Result<Self> {
        let scenarios = Scenarios::build(filter)?;
        let truepeer = agent(architecture)?;
        let built = if architecture.is_own() {
            Vec::new()
        } else {
            let mut command = cargo("test");
            command.args(HOST_CRATES).args(["--test", "*", "--no-run"]);
            architecture.select(&mut command)?;
            executables(&mut command)?
        };
        // What was built for this host, as it is for the machine.
        let in_machine = |own: &Executable| {
            let is_it = |other: &&Executable| {
                (&other.name, &other.package, other.is_test)
                    == (&own.name, &own.package, own.is_test)
            };
            built
                .iter()
                .find(is_it)
                .map_or(&own.path, |it| &it.path)
                .clone()
        };
        let mut job = Self::new(architecture)?;
        job.add_workspace()?;
        job.add(&truepeer)?;
        job.add(&scenarios.image)?;
        let envoy = architecture.envoy(&scenarios.envoy)?;
        job.add(&envoy)?;
        for built in &scenarios.binaries {
            job.add(&in_machine(built))?;
        }
        let kubectl = which("kubectl").filter(|_| architecture.is_own());
        let kubectl = kubectl.map(|program| job.bring(&program)).transpose()?;
        let mut variables = scenarios.variables().to_vec();
        variables.extend(kubectl.iter().map(|it| ("KUBECTL_BIN", it.as_path())));
        for (name, value) in &mut variables {
            match *name {
                "TRUEPEER_BIN" => *value = &truepeer,
                "ENVOY_BIN" => *value = &envoy,
                _ => {}
            }
        }
        for Chosen { program, tests } in &scenarios.chosen {
            if program.name == WITHOUT_KERNEL {
                job.script +=
                    &format!("echo 'test {WITHOUT_KERNEL} ... ignored, no kernel takes part'\n");
                continue;
            }
            if program.name == IN_MACHINES
                && (tests.is_empty() || tests.iter().any(|test| test.starts_with(WITH_PEER)))
            {
                let own = architecture.is_own();
                let programs = if own { &scenarios.binaries } else { &built };
                job.add_peer(&binary(programs, "playground")?, &truepeer)?;
            }
            let path = in_machine(program);
            job.add(&path)?;
            let mut arguments: Vec<_> = tests.iter().map(String::as_str).collect();
            if !arguments.is_empty() {
                arguments.insert(0, "--exact");
            }
            job.run(&path, &program.package, &variables, &arguments)?;
        }
        job.finish()
    }

    /// Whether the job is done by two machines.
    pub(crate) fn has_peer(&self) -> bool {
        self.has_peer
    }

    /// The disk; it is there as long as this value.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }

    fn new(architecture: Architecture) -> Result<Self> {
        let work = tempfile::tempdir()?;
        fs::create_dir(work.path().join("job"))?;
        Ok(Self {
            disk: work.path().join("job.img"),
            work,
            directories: Vec::new(),
            script: match architecture.is_emulated() {
                false => "ended=0\n".to_owned(),
                true => format!("ended=0; export {EMULATED}\n"),
            },
            has_peer: false,
        })
    }

    /// Where what the guest is to see at `path` goes.
    fn mirror(&self, path: &Path) -> PathBuf {
        let files = self.work.path().join("job/files");
        files.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Has the guest see a file, or a directory with all that is below it, where this host has it.
    fn add(&mut self, file: &Path) -> Result<()> {
        if file.is_dir() {
            return fs::read_dir(file)?.try_for_each(|entry| self.add(&entry?.path()));
        }
        let to = self.mirror(file);
        let (Some(directory), Some(parent)) = (file.parent(), to.parent()) else {
            return Ok(());
        };
        fs::create_dir_all(parent)?;
        fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
        self.directories.push(directory.to_owned());
        Ok(())
    }

    /// Has the guest have a program of this host's that its system has not, or too old; returns where. Beside it are other
    /// programs, which the guest must not see instead of its own.
    fn bring(&mut self, program: &Path) -> Result<PathBuf> {
        let name = program.file_name().context("a program's name")?;
        let tools = self.work.path().join("job/tools");
        fs::create_dir_all(&tools)?;
        fs::copy(program, tools.join(name))
            .with_context(|| format!("cannot copy {}", program.display()))?;
        Ok(Path::new("/job/tools").join(name))
    }

    /// Has the guest see the files of this workspace that git knows: tests read manifests and configurations.
    fn add_workspace(&mut self) -> Result<()> {
        let files = output(
            Command::new("git")
                .args(["ls-files", "-z"])
                .current_dir(root()),
        )?;
        for file in files.split_terminator('\0') {
            let file = root().join(file);
            // One that was deleted and not committed is listed, too.
            if file.exists() {
                self.add(&file)?;
            }
        }
        Ok(())
    }

    /// Has two machines do the job, with a network card each: the peer only serves the other, by this program.
    fn add_peer(&mut self, program: &Path, truepeer: &Path) -> Result<()> {
        self.has_peer = true;
        write!(
            self.script,
            "modprobe -a virtio_pci virtio_net\n\
             [ -z \"${PEER}\" ] || TRUEPEER_BIN={} exec {} peer\n",
            quoted(truepeer)?,
            quoted(program)?
        )?;
        Ok(())
    }

    /// Has the guest run a test program in `directory`.
    fn run(
        &mut self,
        program: &Path,
        directory: &Path,
        variables: &[(&str, &Path)],
        arguments: &[&str],
    ) -> Result<()> {
        fs::create_dir_all(self.mirror(directory))?;
        self.directories.push(directory.to_owned());
        let mut line = format!("(cd {} && env", quoted(directory)?);
        for (name, value) in passed_on() {
            write!(line, " {name}={}", quoted(Path::new(&value))?)?;
        }
        for (name, value) in variables {
            write!(line, " {name}={}", quoted(value)?)?;
        }
        write!(
            line,
            " {} --test-threads=1 --show-output --color=never",
            quoted(program)?
        )?;
        for argument in arguments {
            write!(line, " {}", shlex::try_quote(argument)?)?;
        }
        self.script += &format!("{line}) || ended=1\n");
        Ok(())
    }

    /// Makes the disk.
    fn finish(mut self) -> Result<Self> {
        self.directories.sort();
        self.directories.dedup();
        let mut script = String::new();
        let mut bound: Option<&Path> = None;
        for directory in &self.directories {
            if bound.is_none_or(|bound| !directory.starts_with(bound)) {
                let place = quoted(directory)?;
                writeln!(
                    script,
                    "mkdir -p {place} && mount --bind /job/files{place} {place}"
                )?;
                bound = Some(directory);
            }
        }
        script += &self.script;
        script += "exit $ended\n";
        let job = self.work.path().join("job");
        fs::write(job.join("init"), INIT)?;
        fs::write(job.join("run"), script)?;
        image::make(&job, &self.disk, "job", FREE)?;
        fs::remove_dir_all(&job)?;
        Ok(self)
    }
}

/// The agent as it is handed out: optimised.
fn agent(architecture: Architecture) -> Result<PathBuf> {
    let mut command = cargo("build");
    command.args(["--release", "--package", "agent", "--bin", "truepeer"]);
    architecture.select(&mut command)?;
    binary(&executables(&mut command)?, "truepeer")
}

/// A path as a word for the shell.
fn quoted(path: &Path) -> Result<String> {
    let path = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(shlex::try_quote(path)?.into_owned())
}
