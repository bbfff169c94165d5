//! Numbers in maps that several programs change at once.

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

/// Makes a number in a map `to` if it is `from`, in one step. Returns what it was.
///
/// # Safety
///
/// As for [`add`].
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) unsafe fn exchange(number: *mut u64, from: u64, to: u64) -> u64 {
    let was;
    // The instruction is `BPF_ATOMIC | BPF_CMPXCHG` (Linux 5.12; on arm64 5.18).
    // SAFETY: the caller's promise.
    unsafe {
        asm!("r0 = cmpxchg_64({} + 0, r0, {})", in(reg) number, in(reg) to, inout("r0") from => was);
    }
    was
}

/// The same where only the crate's style is checked, on a processor without that register.
///
/// # Safety
///
/// As for [`add`].
#[cfg(not(target_arch = "bpf"))]
pub(crate) unsafe fn exchange(number: *mut u64, from: u64, to: u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    // SAFETY: the caller's promise.
    let number = unsafe { AtomicU64::from_ptr(number) };
    let (Ok(was) | Err(was)) = number.compare_exchange(from, to, Relaxed, Relaxed);
    was
}
