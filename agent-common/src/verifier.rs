//! What LLVM must not know, so that the kernel's verifier accepts what it makes.

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
