//! How code is made that the kernel's verifier accepts, and goes through quickly.

/// A place in an array, about to be masked. LLVM would drop a mask that it can prove useless, and the verifier then
/// refuse the access: the volatile read hides the place from LLVM. A macro, as a function's own copy of the place
/// costs the verifier some percent.
macro_rules! hidden {
    ($at:ident) => {
        // SAFETY: a reference is valid for reads.
        unsafe { core::ptr::read_volatile(&$at) }
    };
}

pub(crate) use hidden;

/// A *global function* of a BPF program (Linux 5.6; with pointers as arguments 5.12): the verifier goes through it once, by itself, for
/// any arguments, and takes a call of it for one instruction with any result. So what a loop does in a round over bytes that
/// anybody may have written is such a function, and often the loop, too. Results are numbers. Elsewhere it is a function
/// like any other.
///
/// A pointer leads to one whole value that nobody else changes meanwhile. It is never null, but the verifier wants that
/// checked.
#[macro_export]
macro_rules! global {
    ($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block) => {
        $(#[$meta])*
        #[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
        #[inline(never)]
        extern "C" fn $name($($argument: $type),*) -> $result $body
    };
}
pub(crate) use global;
