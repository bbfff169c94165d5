//! The port from which a sidecar's proxy connects to its application in a client's name.
//!
//! The client's own connection, which the proxy has accepted, has the same other end and the same address. Nothing tells the
//! two apart but the client's port. If both have the same, as the client's next connection may, too, while the proxy's lives,
//! the client is reset or has no answer. On the client's own host that happens often: the kernel looks for a free port in the
//! same order for both. Here the proxy is given a port that hardly a client has: one behind those that the kernel lets sockets
//! connect from or, where there is none, one of those that it gives to them last (the odd ones, as `ip_local_port_range` usually
//! begins with an even one; `inet_hash_connect()` since Linux 4.2), and one from which nobody is connected to its application.

use agent_common::{Address, Connection, Endpoint, Namespace, Range};
use aya_ebpf::{
    bindings::BPF_ANY, helpers::generated::bpf_get_prandom_u32, programs::SockAddrContext,
};

use crate::{
    kernel::{
        context::InNetns as _,
        sockaddr::{SockAddr4, SockAddr6, bind},
        socket::Socket,
        syscall::SockAddr as _,
    },
    maps::{NAMESPACES, OWN, Replaced as _},
};

/// How many ports of each kind are tried. A client's connections seldom have more than a few of all.
const TRIES: usize = 3;

/// An AF_INET socket is about to connect.
#[inline(always)]
pub(crate) fn connect4(ctx: &SockAddrContext) {
    let Some(source) = ctx.chosen_v4() else {
        return;
    };
    choose(ctx, source, ctx.user_v4(), |port| {
        bind(ctx, SockAddr4::new(source.0[3], port.to_be()))
    });
}

/// An AF_INET6 socket is about to connect, perhaps to an IPv4 address in mapped form.
#[inline(always)]
pub(crate) fn connect6(ctx: &SockAddrContext) {
    let Some(source) = ctx.chosen_v6() else {
        return;
    };
    choose(ctx, source, ctx.user_v6(), |port| {
        bind(ctx, SockAddr6::new(source.0, port.to_be()))
    });
}

/// Gives a socket that is bound to the address `source` alone a port, if it is a proxy's that connects to an application
/// behind it. Where no port is free, the kernel chooses.
#[inline(always)]
fn choose(
    ctx: &SockAddrContext,
    source: Address,
    destination: Address,
    bind: impl Fn(u16) -> bool,
) {
    let Some(namespace) = NAMESPACES.look_up(ctx.netns()) else {
        return;
    };
    let destination = Endpoint::new(destination, ctx.user_port());
    let is_marked = ctx
        .mark()
        .is_some_and(|mark| namespace.spoofed.matches(mark));
    let is_steered =
        |range: &Range| range.is_sidecar() && range.steers(range.ifindex, destination.port);
    if !is_marked || namespace.find(is_steered).is_none() {
        return;
    }
    for attempt in 0..2 * TRIES {
        let port = pick(namespace, attempt < TRIES);
        if is_free(ctx, Endpoint::new(source, port), destination) && bind(port) {
            return;
        }
    }
    // A bind that fails forgets the address.
    bind(0);
}

/// A port that hardly a client has or, if there is none or not `may_be_spare`, one that they are given last.
#[inline(always)]
fn pick(namespace: &Namespace, may_be_spare: bool) -> u16 {
    // SAFETY: a helper without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let spare = namespace.spare_port(random).filter(|_| may_be_spare);
    spare.unwrap_or_else(|| namespace.late_port(random))
}

/// Whether nobody at `source` is connected to `destination`, or about to be.
#[inline(always)]
fn is_free(ctx: &SockAddrContext, source: Endpoint, destination: Endpoint) -> bool {
    let is_v6 = !destination.address.is_v4();
    let own = Connection {
        netns: ctx.netns(),
        source,
        destination,
    };
    // Where there is no connection, the kernel asks `sk_lookup` for the listener, which leaves this host's own connections
    // alone. Nothing is left of it if the proxy does not connect after all.
    let _ = OWN.insert(own, 0, BPF_ANY.into());
    let found = Socket::between(ctx, is_v6, source, destination);
    let _ = OWN.remove(own);
    found.is_none_or(|sk| sk.is_listener())
}
