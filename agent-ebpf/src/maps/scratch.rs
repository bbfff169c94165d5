//! Room for what would take too much of the stack, which has 512 bytes for a chain of calls.

use aya_ebpf::maps::PerCpuArray;

/// One `T` for each CPU, which a program uses while it runs. Only for programs that a packet runs, at tc or on its way to a
/// socket: nothing that runs such a program interrupts them. What a system call runs may be interrupted.
#[repr(transparent)]
pub(crate) struct Scratch<T>(PerCpuArray<T>);

impl<T> Scratch<T> {
    pub(crate) const fn new() -> Self {
        Self(PerCpuArray::with_max_entries(1, 0))
    }

    /// This CPU's `T`, as its last user left it. To be asked for once at a time: the reference is exclusive.
    #[inline(always)]
    pub(crate) fn get(&self) -> Option<&'static mut T> {
        // SAFETY: the slot lives as long as the map, which outlives the program; what uses it runs on one CPU
        // to its end before anything else does.
        self.0.get_ptr_mut(0).map(|slot| unsafe { &mut *slot })
    }
}
