//! The clock that records are stamped with.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

/// Nanoseconds of `CLOCK_BOOTTIME`, which goes on while the host sleeps (Linux 5.8).
#[inline(always)]
pub(crate) fn boottime() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}
