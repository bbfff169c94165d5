//! Profiles of AppArmor, on machines whose kernel has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::netns::run;

/// A profile that the kernel enforces, removed on drop.
pub struct Profile {
    name: String,
    file: PathBuf,
    includes: PathBuf,
    /// How many denials the kernel's log had when it was loaded.
    before: usize,
}

impl Profile {
    /// Has the kernel enforce the profile of this name, in `text`, on what starts from now on, with what a host's own
    /// file `local/NAME` adds to it.
    pub fn load(directory: &Path, name: &str, text: &str, local: &str) -> Result<Self> {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        ensure!(
            enabled.is_ok_and(|enabled| enabled.trim() == "Y"),
            "this kernel's AppArmor is not active"
        );
        let file = directory.join(format!("{name}.profile"));
        let includes = directory.join("local");
        fs::create_dir_all(&includes)?;
        fs::write(includes.join(name), local)?;
        fs::write(&file, text)?;
        let mut profile = Self {
            name: name.to_owned(),
            file,
            includes: directory.to_owned(),
            before: 0,
        };
        run(&mut profile.parser("--replace"))?;
        profile.before = profile.all_denials()?.len();
        Ok(profile)
    }

    fn parser(&self, what: &str) -> Command {
        let mut command = Command::new("apparmor_parser");
        command.args(["--skip-cache", what, "--Include"]);
        command.arg(&self.includes).arg(&self.file);
        command
    }

    /// Fails unless this process runs under the profile.
    pub fn ensure_confines(&self, process: u32) -> Result<()> {
        let path = format!("/proc/{process}/attr/current");
        let label = fs::read_to_string(&path).context(path)?;
        ensure!(
            label.trim_end() == self.label(),
            "process {process} is {label:?}"
        );
        Ok(())
    }

    /// How the kernel names it.
    pub fn label(&self) -> String {
        format!("{} (enforce)", self.name)
    }

    /// What it has denied, in the words of the kernel's log.
    pub fn denials(&self) -> Result<Vec<String>> {
        Ok(self.all_denials()?.split_off(self.before))
    }

    fn all_denials(&self) -> Result<Vec<String>> {
        let log = run(&mut Command::new("dmesg"))?;
        let of_this = format!("profile=\"{}\"", self.name);
        let lines = log
            .lines()
            .filter(|line| line.contains("apparmor=\"DENIED\"") && line.contains(&of_this));
        Ok(lines.map(str::to_owned).collect())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // Printed when the scenario fails.
        let log = self.includes.join(format!("{}-denied.log", self.name));
        if let Ok(denials) = self.denials() {
            let _ = fs::write(log, denials.join("\n"));
        }
        if let Err(error) = run(&mut self.parser("--remove")) {
            eprintln!("{error:#}");
        }
    }
}
