//! The frame of a scenario: one at a time on this host, and nothing left of it afterwards.

pub mod apparmor;
pub mod bpf;
pub mod cgroup;
pub mod iptables;
pub mod kernel;
pub mod listener;
pub mod netns;
pub(crate) mod pins;
pub mod process;
pub mod systemd;
pub mod traces;
pub mod tun;
pub mod user;

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use anyhow::Result;
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::host::netns::require_privileges;
use crate::host::traces::{Traces, remove_orphans};

/// Scenarios of parallel test runs wait for each other here: they share the host's sysctls, its
/// cgroup and its two processors.
const LOCK: &str = "/run/lock/truepeer-tests.lock";

/// Runs a scenario with a directory for its files; panics with every process's log when it fails or
/// when it leaves anything on the host.
pub fn scenario(body: impl FnOnce(&Path) -> Result<()>) {
    let outcome = catch_unwind(AssertUnwindSafe(|| framed(body)));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(panic) => resume_unwind(panic),
    }
}

/// Waits until no other scenario runs on this host; none begins while the value lives.
pub fn turn() -> Result<Flock<File>> {
    let lock = File::options().create(true).append(true).open(LOCK)?;
    Ok(Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?)
}

fn framed(body: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    require_privileges()?;
    let _turn = turn()?;
    remove_orphans()?;
    let before = Traces::of_host()?;
    let directory = Directory(
        tempfile::Builder::new()
            .prefix("truepeer-test-")
            // Servers of other users have directories of their own in it.
            .permissions(Permissions::from_mode(0o711))
            .tempdir()?,
    );
    body(directory.0.path())?;
    let after = Traces::of_host()?;
    before.assert_unchanged(&after)?;
    directory.forget_logs()
}

/// A directory whose logs are printed on drop, unless the scenario went well.
struct Directory(TempDir);

impl Directory {
    fn forget_logs(self) -> Result<()> {
        for entry in std::fs::read_dir(self.0.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "log") {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        const LINES: usize = 60;
        let Ok(entries) = std::fs::read_dir(self.0.path()) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            if path.extension().is_some_and(|e| e == "log") && !text.is_empty() {
                let lines: Vec<_> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LINES)..];
                eprintln!("--- {}\n{}", path.display(), tail.join("\n"));
            }
        }
    }
}
