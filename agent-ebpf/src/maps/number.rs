//! Numbers in maps to which several programs add at once.

use core::arch::asm;

/// Adds to a number in a map in one step.
///
/// Even a number of one CPU needs that: a program at a cgroup, as in a system call, may be interrupted by one that a
/// packet runs on the same CPU, whose addition would be lost.
///
/// # Safety
///
/// The pointer is to a value of a map, which is aligned to 8 bytes and which nobody writes in another way.
#[inline(always)]
pub(crate) unsafe fn add(number: *mut u64, by: i64) {
    // The standard library has no atomic addition for this target; the instruction is `BPF_ATOMIC | BPF_ADD`.
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) number, in(reg) by) };
}
