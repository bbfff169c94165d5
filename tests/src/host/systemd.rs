//! A systemd of a scenario's own: the first process of a host that shares this one's files and network namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::cgroup::Cgroup;
use super::netns::{Netns, run};
use super::process::Process;

/// Where Debian has it.
const PROGRAM: &str = "/lib/systemd/systemd";
/// Its own units that a scenario needs. Nothing else of this host is started.
const TARGETS: [&str; 6] = [
    "basic.target",
    "multi-user.target",
    "network.target",
    "shutdown.target",
    "sockets.target",
    "sysinit.target",
];

/// The host has its own /run, in which the network namespaces are, its own /var/lib and all files of a directory's `usr` and
/// `etc` besides. It cannot change anything of this one's: no file, and no sysctl but those of its network namespace.
const BOOT: &str = r#"
set -e
mount -t proc proc /proc
mkdir "$1/run"
mount -t tmpfs run "$1/run"
mkdir "$1/run/netns"
mount --rbind /run/netns "$1/run/netns"
mount --no-mtab --move "$1/run" /run
mount -t tmpfs state /var/lib
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /dev/null /dev/console
for directory in etc usr; do
    mount -t overlay -o "lowerdir=$1/$directory:/$directory" overlay "/$directory"
done
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw /proc/sys/net
# As systemd does where it is not in a container: services with mounts of their own see what is mounted later.
mount --make-rshared /
exec env -i "PATH=$PATH" container=scenario "SYSTEMD_UNIT_PATH=$1/units" \
    "$2" --system --unit=multi-user.target --log-target=null --show-status=no
"#;

/// A host that systemd has booted, killed with all that runs on it on drop.
pub struct Systemd {
    process: Process,
    directory: PathBuf,
    _cgroup: Cgroup,
}

impl Systemd {
    /// Boots a host in this network namespace, with the files in `usr` and `etc` of `directory`, and the units in its `units`.
    pub fn boot(directory: &Path, netns: &Netns) -> Result<Self> {
        for name in ["etc", "units", "usr"] {
            fs::create_dir_all(directory.join(name))?;
        }
        for target in TARGETS {
            let from = Path::new(PROGRAM).with_file_name("system").join(target);
            fs::copy(from, directory.join("units").join(target))?;
        }
        let cgroup = Cgroup::new("systemd")?;
        // unshare(1) does not hear SIGTERM.
        let mut command = netns.command("setpriv")?;
        command
            .args(["--pdeathsig", "KILL", "unshare", "--kill-child", "--fork"])
            .args([
                "--mount",
                "--propagation",
                "slave",
                "--pid",
                "--ipc",
                "--uts",
            ])
            .args(["sh", "-c", BOOT, "sh"])
            .arg(directory)
            .arg(PROGRAM);
        let process = cgroup.run(|| Process::start("systemd", command, directory))?;
        let mut host = Self {
            process,
            directory: directory.to_owned(),
            _cgroup: cgroup,
        };
        let mut state = host.command("systemctl");
        state.arg("is-system-running");
        host.process
            .wait_until_ready(|| Ok(state.output()?.stdout == b"running\n"))?;
        Ok(host)
    }

    /// A command that runs on this host.
    pub fn command(&self, program: &str) -> Command {
        let id = self.process.id();
        let mut command = Command::new("nsenter");
        command
            .args([
                &format!("--target={id}"),
                "--mount",
                "--net",
                "--ipc",
                "--uts",
            ])
            .arg(format!("--pid=/proc/{id}/ns/pid_for_children"))
            .arg(program);
        command
    }

    /// A file of this host.
    pub fn file(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.process.id()).into()
    }

    /// Makes or replaces a unit's file, or one that adds to a unit.
    pub fn write_unit(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.directory.join("units").join(name), text)?;
        self.systemctl(&["daemon-reload"])
    }

    /// Has systemctl(1) do something.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<()> {
        run(self.command("systemctl").args(arguments)).map(drop)
    }

    /// What systemctl(1) says when it fails to do something.
    pub fn systemctl_fails(&self, arguments: &[&str]) -> Result<String> {
        let Output { status, stderr, .. } = self.command("systemctl").args(arguments).output()?;
        let said = String::from_utf8_lossy(&stderr).into_owned();
        ensure!(
            !status.success(),
            "systemctl {arguments:?} succeeds: {said}"
        );
        Ok(said)
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let value =
            run(self
                .command("systemctl")
                .args(["show", "--value", "--property", name, unit]))?;
        Ok(value.trim_end().to_owned())
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if let Err(error) = self.process.signal(Signal::SIGKILL) {
            eprintln!("{error:#}");
        }
    }
}
