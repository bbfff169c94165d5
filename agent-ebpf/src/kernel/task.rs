//! The process in whose name a program runs.

use agent_common::Process;
use aya_ebpf::{
    cty::c_void,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{
            bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
            bpf_get_current_task, bpf_probe_read_kernel,
        },
    },
};

use crate::maps::{CREDENTIALS, CREDENTIALS_KNOWN};

/// How deep a user namespace can lie below the first (`create_user_ns()` of the kernel's kernel/user_namespace.c).
const MAX_USER_NAMESPACES: u32 = 33;

/// Its user.
#[inline(always)]
pub(crate) fn uid() -> u32 {
    bpf_get_current_uid_gid() as u32
}

/// The id of the cgroup that it is in.
#[inline(always)]
pub(crate) fn cgroup() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The id of its cgroup at this depth, where the root has depth 0; `None` if it is not in a cgroup that deep.
#[inline(always)]
pub(crate) fn cgroup_at(depth: i32) -> Option<u64> {
    // SAFETY: a helper that takes any number.
    let id = unsafe { bpf_get_current_ancestor_cgroup_id(depth) };
    (id != 0).then_some(id)
}

/// Whether it has one of these capabilities in its network namespace, as `ns_capable()` of the kernel has it: in the user
/// namespace that owns the network namespace, or in one above. What its owner has without asking, and what a security module
/// denies, is not considered. Where the kernel does not show it, the process has what root has.
#[inline(always)]
pub(crate) fn has_one_of(capabilities: u64) -> bool {
    if CREDENTIALS_KNOWN.load() == 0 {
        return uid() == 0;
    }
    let at = CREDENTIALS.load();
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let cred = word(task, at.task_cred);
    if word(cred, at.cred_effective) & capabilities == 0 {
        return false;
    }
    let users = word(cred, at.cred_users);
    let net = word(word(task, at.task_nsproxy), at.nsproxy_net);
    let mut owner = word(net, at.net_owner);
    for _ in 0..MAX_USER_NAMESPACES {
        if owner == 0 || owner == users {
            break;
        }
        owner = word(owner, at.users_parent);
    }
    owner == users
}

/// The word at an offset of a structure of the kernel; 0 if there is none.
#[inline(always)]
fn word(structure: u64, offset: u32) -> u64 {
    let mut word = 0_u64;
    let at = (structure + u64::from(offset)) as *const c_void;
    // SAFETY: the word has the length that is passed; the helper clears it where nothing can be read.
    unsafe { bpf_probe_read_kernel((&raw mut word).cast(), size_of::<u64>() as u32, at) };
    word
}

/// Fills in what a record says about it. In place, because a copy would take the stack twice.
#[inline(always)]
pub(crate) fn describe(process: &mut Process) {
    process.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    process.uid = uid();
    process.cgroup = cgroup();
    let comm = &mut process.comm;
    // SAFETY: the buffer has the length that is passed; the helper clears it on failure.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), comm.len() as u32) };
}
