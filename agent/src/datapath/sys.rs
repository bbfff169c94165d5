//! Two calls of bpf(2) that aya 0.14 does not offer: it makes the link of a `cgroup/sockopt` program,
//! but cannot pin it. And a wait for programs that run.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::programs::{CgroupSockopt, CgroupSockoptAttachType};
use nix::libc;

// `enum bpf_cmd` and `enum bpf_attach_type` of linux/bpf.h.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_CGROUP_GETSOCKOPT: u32 = 21;
const BPF_CGROUP_SETSOCKOPT: u32 = 22;

/// `bpf_attr.link_create` of linux/bpf.h, as far as a cgroup needs it.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// `bpf_attr` of `BPF_OBJ_PIN`, as far as it is needed.
#[repr(C)]
struct ObjPin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Attaches a loaded program to a cgroup.
pub(super) fn attach_sockopt(
    program: &CgroupSockopt,
    cgroup: &std::fs::File,
    attach_type: CgroupSockoptAttachType,
) -> Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.fd()?.as_fd().as_raw_fd() as u32,
        target: cgroup.as_raw_fd() as u32,
        attach_type: match attach_type {
            CgroupSockoptAttachType::Get => BPF_CGROUP_GETSOCKOPT,
            CgroupSockoptAttachType::Set => BPF_CGROUP_SETSOCKOPT,
        },
        flags: 0,
    };
    let fd = bpf(BPF_LINK_CREATE, &attributes).context("cannot attach to the cgroup")?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a link at `path`, on a bpffs.
pub(super) fn pin(link: &OwnedFd, path: &Path) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjPin {
        path: path.as_ptr() as u64,
        fd: link.as_raw_fd() as u32,
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attributes)?;
    Ok(())
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads as many bytes as are passed, and takes what is missing as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

/// Waits until every BPF program that runs now has ended, and what it let through has reached its socket: packets are
/// delivered within the read-side critical section (RCU) in which tc programs run.
pub(super) fn wait_for_programs() {
    // `MEMBARRIER_CMD_GLOBAL` of linux/membarrier.h: `synchronize_rcu()`, unless one processor is all there is; then no
    // program is in the middle of a packet while this process runs.
    const GLOBAL: libc::c_int = 1;
    // SAFETY: a system call without pointers. It fails where processors have no tick (`nohz_full`): then there is nothing
    // better than to go on.
    unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
}
