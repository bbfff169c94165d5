//! BPF programs of others on this host, a few instructions each.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::libc;
use nix::net::if_::if_nametoindex;

use super::cgroup;

// `enum bpf_cmd`, `enum bpf_prog_type` and `enum bpf_attach_type` of linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_SOCK_OPS: u32 = 13;
const BPF_CGROUP_SOCK_OPS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;

/// The name of each program.
pub const NAME: &str = "somebody_elses";

/// The names of the TCX programs at ingress of an interface of the calling thread's network namespace, in the order in which
/// they run.
pub fn ingress(interface: &str) -> Result<Vec<String>> {
    let (_, all) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
    let names = all.iter().filter_map(|program| program.name_as_str());
    Ok(names.map(str::to_owned).collect())
}

/// `bpf_attr` of `BPF_PROG_LOAD`, as far as it is needed.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// An attached program, detached on drop.
pub struct Foreign(#[expect(dead_code, reason = "detaches on drop")] OwnedFd);

impl Foreign {
    /// Comes last at tc ingress of an interface of the calling thread's network namespace, and lets every packet pass without
    /// asking whoever comes behind it.
    pub fn passes(interface: &str) -> Result<Self> {
        // r0 = TCX_PASS; exit
        let program = load(
            BPF_PROG_TYPE_SCHED_CLS,
            BPF_TCX_INGRESS,
            &[[0xb7, 0, 0], EXIT],
        )?;
        attach(&program, if_nametoindex(interface)?, BPF_TCX_INGRESS).map(Self)
    }

    /// Sets no callback flags for connections that this local port accepts, and so unsets those of others.
    pub fn clears_flags(port: u16) -> Result<Self> {
        let program = [
            // r2 = op; unless it is BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, go to the end
            [0x61, 0x12, 0],
            [0x0004_0055, 0x2, 5],
            // r3 = local_port; unless it is this one, go to the end
            [0x0044_0061, 0x13, 0],
            [0x0002_0055, 0x3, u32::from(port)],
            // r2 = 0; bpf_sock_ops_cb_flags_set(r1, r2)
            [0xb7, 0x2, 0],
            [0x85, 0, 59],
            // r0 = 1; exit
            [0xb7, 0, 1],
            EXIT,
        ];
        let program = load(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, &program)?;
        let root = File::open(cgroup::root()?)?;
        attach(&program, root.as_raw_fd() as u32, BPF_CGROUP_SOCK_OPS).map(Self)
    }
}

/// An instruction: operation and, from bit 16 on, its offset; registers; immediate value.
type Instruction = [u32; 3];

const EXIT: Instruction = [0x95, 0, 0];

fn load(kind: u32, attach_type: u32, program: &[Instruction]) -> Result<OwnedFd> {
    let encode = |[operation, registers, value]: &Instruction| {
        let word = operation & 0xff | registers << 8 | operation & 0xffff_0000;
        u64::from(word) | u64::from(*value) << 32
    };
    let code: Vec<u64> = program.iter().map(encode).collect();
    let mut attributes = ProgLoad {
        kind,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        attach_type,
        ..ProgLoad::default()
    };
    attributes.name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    bpf(BPF_PROG_LOAD, &attributes).context("cannot load a program")
}

fn attach(program: &OwnedFd, target: u32, attach_type: u32) -> Result<OwnedFd> {
    let attributes = [program.as_raw_fd() as u32, target, attach_type, 0];
    bpf(BPF_LINK_CREATE, &attributes).context("cannot attach a program")
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes as are passed, and takes what is missing as zero.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
