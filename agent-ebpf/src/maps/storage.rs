//! Values that belong to a socket.

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    cty::c_void,
    helpers::generated::bpf_sk_storage_get,
};

/// Values that belong to sockets and go with them. aya-ebpf's `SkStorage` has no `BPF_F_CLONE`, by which
/// accepted sockets inherit the listener's value.
#[repr(C)]
pub(crate) struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the pointers only describe the map to the loader and are never followed.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T: Copy, const FLAGS: usize> SocketStorage<T, FLAGS> {
    pub(super) const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    fn as_ptr(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// What `sk`, a socket pointer of a BPF context, carries.
    #[inline(always)]
    pub(crate) fn get_ptr(&self, sk: *mut c_void) -> Option<*mut T> {
        // SAFETY: the verifier accepts only a socket here, and the helper returns null or a value.
        let value = unsafe { bpf_sk_storage_get(self.as_ptr(), sk, core::ptr::null_mut(), 0) };
        if value.is_null() {
            None
        } else {
            Some(value.cast())
        }
    }

    /// A copy of what `sk`, a socket pointer of a BPF context, carries.
    #[inline(always)]
    pub(crate) fn get(&self, sk: *mut c_void) -> Option<T> {
        // SAFETY: the value lives as long as the socket, which outlives the program's run.
        self.get_ptr(sk).map(|value| unsafe { *value })
    }

    /// Makes `sk`, a socket pointer of a BPF context, carry `value`.
    #[inline(always)]
    pub(crate) fn set(&self, sk: *mut c_void, value: T) {
        let mut first = value;
        // SAFETY: as in `get_ptr`; the helper copies the value.
        unsafe {
            let stored = bpf_sk_storage_get(
                self.as_ptr(),
                sk,
                core::ptr::from_mut(&mut first).cast(),
                BPF_SK_STORAGE_GET_F_CREATE.into(),
            )
            .cast::<T>();
            if !stored.is_null() {
                *stored = value;
            }
        }
    }
}
