//! The process in whose name a program runs.

use agent_common::Process;
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
    },
};

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
