//! The proxies' listeners, which `sk_lookup` picks from.

use agent_common::{Listener, ListenerKey, kernel::Version};
use aya_ebpf::{
    bindings::BPF_ANY, cty::c_void, helpers::generated::bpf_map_update_elem,
    programs::SockOpsContext,
};

use crate::{
    kernel::context::SockOps as _,
    maps::{LISTENERS, PROXIES, kernel_has},
};

/// Remembers a proxy's new listener.
#[inline(always)]
pub(crate) fn listens(ctx: &SockOpsContext) {
    let Some((netns, namespace)) = ctx.namespace() else {
        return;
    };
    let port = ctx.local_port();
    if namespace.find(|range| range.is_proxys(port)).is_none() {
        return;
    }
    if let Some(sk) = ctx.socket() {
        LISTENERS.set(sk, Listener { port });
    }
    let key = ListenerKey {
        netns,
        port,
        family: ctx.family(),
    };
    // SAFETY: the context is valid while the program runs.
    let ops = unsafe { &mut *ctx.ops };
    // A full map leaves this listener to the steers with an interface, which look it up themselves.
    let _ = PROXIES.update(key, ops, BPF_ANY.into());
}

/// Remembers a proxy's listener that is older than the agent. `sk` is a socket of the TCP iterator.
#[inline(always)]
pub(crate) fn adopts(sk: *mut c_void, key: &ListenerKey) {
    LISTENERS.set(sk, Listener { port: key.port });
    if !kernel_has(Version::ITERATOR_FILLS_SOCKMAPS) {
        // The agent does it.
        return;
    }
    // SAFETY: key and socket are what a sockhash takes.
    unsafe {
        bpf_map_update_elem(
            core::ptr::from_ref(&PROXIES).cast_mut().cast(),
            core::ptr::from_ref(key).cast(),
            sk.cast_const(),
            BPF_ANY.into(),
        )
    };
}
