//! steer by `sk_lookup`: connections to this host's own addresses, in a whole network namespace.

use agent_common::{Connection, Counter, ListenerKey, Range, kernel::Version};
use aya_ebpf::programs::SkLookupContext;

use super::affinity;
use crate::{
    kernel::{context::SkLookup as _, ip::TCP, socket::is_asked_by_program, uapi::AF_INET6},
    maps::{NAMESPACES, NETNS, OWN, PROXIES, Replaced as _, kernel_has},
    tell::count,
};

/// Picks the proxy's listener for a connection to one of this host's addresses, or for one that reuses the
/// port of a connection in TIME_WAIT, which tc ingress leaves to the kernel.
#[inline(always)]
pub(crate) fn lookup(ctx: &SkLookupContext) {
    let (protocol, family, port) = (ctx.protocol(), ctx.family(), ctx.local_port());
    let ifindex = kernel_has(Version::LOOKUP_HAS_INTERFACE).then(|| ctx.ifindex());
    if protocol != TCP.into() {
        return;
    }
    let netns = NETNS.load();
    let Some(namespace) = NAMESPACES.look_up(netns) else {
        return;
    };
    // Whose interface is not known may have come in by any: tc alone cannot bring it to listeners that share a port,
    // as Envoy's do.
    let wanted = |range: &Range| {
        range.steers(0, port) || range.steers(ifindex.unwrap_or(range.ifindex), port)
    };
    let Some(range) = namespace.find(wanted) else {
        return;
    };
    // This host's own connections are left alone, above all the proxy's to the application, which must not
    // come back to the proxy. The interface would not tell them apart: a packet to a local address counts as
    // received on the interface that has the address.
    let connection = Connection {
        netns,
        source: ctx.source(),
        destination: ctx.destination(),
    };
    if OWN.look_up(connection).is_some() {
        return;
    }
    // tc ingress has already counted what came in by a steered interface.
    let tally = |counter| {
        if range.ifindex == 0 && !is_asked_by_program() {
            count(counter);
        }
    };
    if namespace.draining != 0 {
        return tally(Counter::Drained);
    }
    let to = affinity::listener_port(&range, netns, family, &connection.source.address);
    let key = |family| ListenerKey {
        netns,
        port: to.into(),
        family,
    };
    let is_chosen = PROXIES.redirect_sk_lookup(ctx, key(family), 0).is_ok()
        // An IPv4 connection may belong to a dual-stack listener; the kernel refuses what does not.
        || PROXIES.redirect_sk_lookup(ctx, key(AF_INET6), 0).is_ok();
    tally(if is_chosen {
        Counter::Steered
    } else {
        Counter::NoListener
    });
}
