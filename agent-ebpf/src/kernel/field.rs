//! Access to the fields of contexts, and of the sockets in them.

/// A field of a context, or of a socket in one.
macro_rules! field {
    ($context:expr => $($field:tt)+) => {
        // SAFETY: the kernel keeps a context and its socket valid while a program runs, and the verifier checks
        // each access.
        unsafe { (*$context).$($field)+ }
    };
}

/// A field that the compiler must not read together with others: the verifier accepts reads only at fixed
/// offsets and of the field's own size.
macro_rules! field_alone {
    ($context:expr => $($field:tt)+) => {
        // SAFETY: as in `field`.
        unsafe { core::ptr::read_volatile(&raw const (*$context).$($field)+) }
    };
}

pub(super) use {field, field_alone};

#[inline(always)]
pub(super) fn non_null<T>(pointer: *mut T) -> Option<*mut T> {
    (!pointer.is_null()).then_some(pointer)
}
