//! File systems of the kernel, and how much of the host this process can see.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::check::{Check, Outcome, or_failed};
use crate::host::cgroups::cgroup2_mount;

/// Inode of the host's own pid namespace (`PROC_PID_INIT_INO`).
const HOST_PIDS: u64 = 0xeffffffc;

/// Inode of the root of cgroup v2's hierarchy.
const ROOT_CGROUP: u64 = 1;

pub(super) fn check(bpffs: &Path) -> Vec<Check> {
    let checks = [
        ("cgroup v2", cgroup()),
        ("bpffs", mounted(bpffs)),
        ("processes", processes()),
    ];
    let checks = checks.into_iter();
    checks
        .flat_map(|(name, check)| or_failed(name, check.map(|check| vec![check])))
        .collect()
}

fn cgroup() -> Result<Check> {
    const NAME: &str = "cgroup v2";
    let mount = match cgroup2_mount() {
        Ok(mount) => mount,
        Err(error) => {
            let error = error.to_string();
            let (reason, remedy) = error.split_once(": ").unwrap_or((&error, ""));
            let consequence = "no connection's origin can be learnt";
            return Ok(Check::wrong(
                Outcome::Fail,
                NAME,
                reason,
                consequence,
                remedy,
            ));
        }
    };
    let shown = mount.display();
    if fs::metadata(&mount)?.ino() == ROOT_CGROUP {
        return Ok(Check::ok(NAME, format!("mounted at {shown}")));
    }
    Ok(Check::wrong(
        Outcome::Warn,
        NAME,
        format!("{shown} is not the root of the hierarchy but a container's part of it"),
        "only origins of processes in that part are learnt",
        "mount the host's /sys/fs/cgroup into the container",
    ))
}

fn mounted(bpffs: &Path) -> Result<Check> {
    const NAME: &str = "bpffs";
    // Neither the directory nor all of its ancestors need exist yet.
    let above = bpffs
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let shown = above.display();
    let found = statfs(above).with_context(|| format!("cannot look at {shown}"))?;
    if found.filesystem_type() == BPF_FS_MAGIC {
        return Ok(Check::ok(NAME, format!("mounted at {shown}")));
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.split_whitespace().any(|name| name == "bpf") {
        return Ok(Check::wrong(
            Outcome::Fail,
            NAME,
            "the kernel has no bpf file system",
            "maps and programs cannot outlive the agent",
            "use a kernel with CONFIG_BPF_SYSCALL=y",
        ));
    }
    match nix::unistd::access(above, nix::unistd::AccessFlags::W_OK) {
        Ok(()) => Ok(Check::ok(
            NAME,
            format!("not mounted at {shown}; the agent will mount it"),
        )),
        Err(errno) => Ok(Check::wrong(
            Outcome::Fail,
            NAME,
            format!(
                "{shown} is not on bpffs, and nothing can be mounted there: {}",
                io::Error::from(errno)
            ),
            "maps and programs cannot outlive the agent",
            "run `mount -t bpf bpf /sys/fs/bpf` on the host, and mount that into the container",
        )),
    }
}

fn processes() -> Result<Check> {
    const NAME: &str = "processes";
    if fs::metadata("/proc/self/ns/pid")?.ino() == HOST_PIDS {
        return Ok(Check::ok(NAME, "all of the host's are seen"));
    }
    Ok(Check::wrong(
        Outcome::Warn,
        NAME,
        "this is a pid namespace of its own, such as a container's",
        "the process of a connection is told only if it runs in there, and namespaces without a \
         name are not found",
        "share the host's: `hostPID: true` in a pod, `--pid=host` for docker",
    ))
}
