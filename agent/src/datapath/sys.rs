//! Calls of bpf(2) that aya 0.14 does not offer: it makes the link of a `cgroup/sockopt` program but cannot pin it, and
//! does not tell what a link is attached to. And a wait for programs that run.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::programs::{CgroupSockopt, CgroupSockoptAttachType};
use nix::libc;

// `enum bpf_cmd`, `enum bpf_map_type` and `enum bpf_attach_type` of linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_PROG_BIND_MAP: libc::c_long = 35;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
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

/// `bpf_attr.info` of linux/bpf.h.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// `bpf_link_info` of linux/bpf.h, as far as it is the same for all kinds of links, and then the first words of what each
/// kind has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkInfo {
    kind: u32,
    /// The kernel's id of the link.
    pub(super) id: u32,
    /// The id of its program.
    pub(super) program_id: u32,
    padding: u32,
    /// The id of a cgroup, or else the inode of a network namespace or the index of an interface, and what it is attached
    /// for.
    target: [u32; 2],
}

impl LinkInfo {
    // `enum bpf_link_type`
    const CGROUP: u32 = 3;
    const NETNS: u32 = 5;
    const TCX: u32 = 11;

    /// Whether the link is attached to anything: somebody may have detached it, and what it was attached to may be gone.
    pub(super) fn is_attached(&self) -> bool {
        match self.kind {
            Self::CGROUP => self.target != [0; 2],
            Self::NETNS | Self::TCX => self.target[0] != 0,
            _ => true,
        }
    }
}

/// Opens what is pinned at `path`.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjPin {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &attributes)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel says of a link.
pub(super) fn link_info(link: &OwnedFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let attributes = InfoByFd {
        fd: link.as_raw_fd() as u32,
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(info)
}

/// `bpf_attr` of `BPF_MAP_CREATE` up to the name.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// Makes an array of one value of this size. The kernel takes names of up to 15 bytes.
pub(super) fn create_array(name: &str, value_size: u32) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        kind: BPF_MAP_TYPE_ARRAY,
        key_size: size_of::<u32>() as u32,
        value_size,
        max_entries: 1,
        flags: 0,
        inner_map: 0,
        numa_node: 0,
        name: [0; 16],
    };
    attributes.name[..name.len()].copy_from_slice(name.as_bytes());
    let fd = bpf(BPF_MAP_CREATE, &attributes)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the kernel keep a map with a program that does not use it. It may be there already.
pub(super) fn bind_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = [program.as_raw_fd() as u32, map.as_raw_fd() as u32, 0];
    bpf(BPF_PROG_BIND_MAP, &attributes).map(drop)
}

/// Opens the link with this id.
pub(super) fn link(id: u32) -> io::Result<OwnedFd> {
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &[id, 0, 0])?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Detaches a link, whoever holds it.
pub(super) fn detach(link: &OwnedFd) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &[link.as_raw_fd() as u32]).map(drop)
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
