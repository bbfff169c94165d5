//! Connections that sockets of this host make, which `sk_lookup` leaves alone.

use agent_common::Connection;
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_SOCK_OPS_STATE_CB_FLAG},
    programs::SockOpsContext,
};

use crate::{kernel::context::SockOps as _, maps::OWN};

/// Remembers a connection to a steered port, before its first packet is sent.
#[inline(never)]
pub(crate) fn connects(ctx: &SockOpsContext) {
    let Some((netns, namespace)) = ctx.namespace() else {
        return;
    };
    let destination = ctx.remote();
    if namespace
        .find(|range| range.steers(range.ifindex, destination.port))
        .is_none()
    {
        return;
    }
    let own = Connection {
        netns,
        source: ctx.local(),
        destination,
    };
    if OWN.insert(own, 0, BPF_ANY.into()).is_ok() {
        ctx.call_for(BPF_SOCK_OPS_STATE_CB_FLAG);
    }
}

/// Forgets a connection that has failed, or whose packets find its socket from now on.
#[inline(never)]
pub(crate) fn forget(ctx: &SockOpsContext) {
    if let Some((netns, _)) = ctx.namespace() {
        let _ = OWN.remove(Connection {
            netns,
            source: ctx.local(),
            destination: ctx.remote(),
        });
    }
}
