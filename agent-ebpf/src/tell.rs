//! Counting.

use agent_common::Counter;

use crate::maps::COUNTERS;

/// Adds one to `counter` on this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a slot of this CPU, and BPF programs of one CPU do not share it while they run.
        unsafe { *slot += 1 };
    }
}
