//! Processes of users without capabilities.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc::{SYS_setresuid, syscall};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::host::netns::Netns;

/// The user of Istio's proxies.
pub const UID: u32 = 1337;

/// A user that every host knows by name.
pub const NOBODY: u32 = 65534;

/// A new directory in `parent` that belongs to this user.
pub fn directory(parent: &Path, name: &str, uid: u32) -> Result<PathBuf> {
    let path = parent.join(name);
    fs::create_dir(&path).with_context(|| path.display().to_string())?;
    chown(&path, Some(uid), Some(uid))?;
    // PostgreSQL refuses a data directory that others may read.
    fs::set_permissions(&path, Permissions::from_mode(0o700))?;
    Ok(path)
}

/// Runs `f` on a thread of its own that is this user's.
///
/// # Errors
///
/// When the user cannot be taken on, or `f` fails.
pub fn acting<T: Send>(uid: u32, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let body = || {
        // SAFETY: the system call changes this thread alone, unlike the function of that name, and takes three numbers.
        let outcome = unsafe { syscall(SYS_setresuid, uid, uid, uid) };
        Errno::result(outcome)?;
        f()
    };
    thread::scope(|scope| scope.spawn(body).join().expect("it does not panic"))
}

/// A command that runs inside `netns` as this user, or as root.
pub(crate) fn command_of(netns: &Netns, uid: Option<u32>, program: &str) -> Result<Command> {
    match uid {
        None => netns.command(program),
        Some(uid) => command(netns, uid, program.as_ref()),
    }
}

/// A command that runs inside `netns` as this user, without capabilities.
pub fn command(netns: &Netns, uid: u32, program: &Path) -> Result<Command> {
    ensure!(uid != 0, "root has capabilities");
    // Opened here: the user may be unable to reach it by its path.
    let file = File::open(program).with_context(|| program.display().to_string())?;
    let mut command = netns.command(&format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    command.arg0(program);
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    // SAFETY: between fork and exec the closure makes three system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            // It stays open as long as the command can be run.
            let _ = &file;
            setgroups(&[])?;
            setresgid(group, group, group)?;
            Ok(setresuid(user, user, user)?)
        });
    }
    Ok(command)
}
