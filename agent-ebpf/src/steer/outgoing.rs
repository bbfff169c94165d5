//! Connections that sockets of this host make, which `sk_lookup` leaves alone.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_SOCK_OPS_STATE_CB_FLAG},
    programs::SockOpsContext,
};

use crate::{kernel::context::SockOps as _, maps::OWN};

/// Remembers a connection to a steered port, before its first packet is sent.
#[inline(never)]
pub(crate) fn connects(ctx: &SockOpsContext) {
    let Some((_, namespace)) = ctx.namespace() else {
        return;
    };
    let own = ctx.outgoing();
    let port = own.destination.port;
    let is_steered = namespace.find(|range| range.steers(range.ifindex, port));
    if is_steered.is_some() && OWN.insert(own, 0, BPF_ANY.into()).is_ok() {
        ctx.call_for(BPF_SOCK_OPS_STATE_CB_FLAG);
    }
}

/// Forgets a connection: it failed, or its packets find its socket from now on.
#[inline(never)]
pub(crate) fn forget(ctx: &SockOpsContext) {
    if ctx.namespace().is_some() {
        let _ = OWN.remove(ctx.outgoing());
    }
}
