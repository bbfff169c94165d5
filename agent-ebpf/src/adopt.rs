//! Adopts listeners that are older than the agent: a TCP iterator treats those in the `ADOPT` map as if they had just
//! begun to listen.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_get_socket_cookie};

use crate::{
    learn::toa,
    maps::{ADOPT, Replaced as _},
    steer::listeners,
};

/// `struct bpf_iter__tcp`.
#[repr(C)]
pub(crate) struct IterTcp {
    meta: *mut c_void,
    sk_common: *mut c_void,
    uid: u32,
}

/// One socket of the iterator, which holds it locked; null at the end.
#[inline(always)]
pub(crate) fn socket(ctx: *mut IterTcp) {
    // SAFETY: the context is valid while the program runs; the fields are UAPI of the iterator.
    let sk = unsafe { (*ctx).sk_common };
    if sk.is_null() {
        return;
    }
    // SAFETY: a helper that takes this socket.
    let cookie = unsafe { bpf_get_socket_cookie(sk) };
    let Some(key) = ADOPT.look_up(cookie) else {
        return;
    };
    let key = *key;
    toa::adopts(sk);
    if key.port != 0 {
        listeners::adopts(sk, &key);
    }
}
