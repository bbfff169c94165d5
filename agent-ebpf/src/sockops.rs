//! sockops: what happens to a TCP socket, and the context that tells it.

use core::ptr::read_volatile;

use agent_common::{Address, Endpoint, Namespace};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB,
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_SOCK_OPS_WRITE_HDR_OPT_CB,
    },
    cty::c_void,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockOpsContext,
};

use crate::{carry, close, learn, maps::NAMESPACES, steer::AF_INET, toa};

/// Flags of the TCP header.
const SYN: u32 = 0x02;
const SYN_ACK: u32 = 0x12;

/// Passes a call on to the verb that it concerns. Those that need much of the stack, which is 512 bytes for a
/// chain of calls, are calls of their own and not inlined.
#[inline(always)]
pub(crate) fn call(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_LISTEN_CB => {
            toa::listens(ctx);
            learn::relays(ctx);
            learn::listen(ctx);
        }
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            learn::connects(ctx);
            carry::connects(ctx);
        }
        // SAFETY: the context is valid while the program runs.
        BPF_SOCK_OPS_HDR_OPT_LEN_CB => match unsafe { (*ctx.ops).skb_tcp_flags } & SYN_ACK {
            SYN => carry::sends(ctx),
            SYN_ACK => toa::answers(ctx),
            _ => {}
        },
        BPF_SOCK_OPS_WRITE_HDR_OPT_CB => carry::writes(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            learn::forget_connection(ctx);
            carry::connected(ctx);
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            // The listener's flag, inherited.
            carry::connected(ctx);
            learn::accepted(ctx);
        }
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB => close::received(ctx),
        BPF_SOCK_OPS_STATE_CB => close::changed(ctx, ctx.arg(1)),
        _ => {}
    }
}

/// The socket's namespace and what is to be done there; `None` where there is nothing to do.
#[inline(always)]
pub(crate) fn namespace(ctx: &SockOpsContext) -> Option<(u64, &'static Namespace)> {
    let netns = netns(ctx);
    // SAFETY: entries are replaced, never changed in place.
    let namespace = unsafe { NAMESPACES.get(netns) }?;
    Some((netns, namespace))
}

/// The socket, as helpers take it.
#[inline(always)]
pub(crate) fn socket(ctx: &SockOpsContext) -> Option<*mut c_void> {
    // SAFETY: the context is valid while the program runs.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() { None } else { Some(sk.cast()) }
}

/// The socket's own end.
#[inline(always)]
pub(crate) fn local(ctx: &SockOpsContext) -> Endpoint {
    // SAFETY: the context is valid while the program runs. Reads that the compiler may not merge: the
    // verifier takes none at a computed offset.
    let (v4, v6, port) = unsafe {
        let ops = ctx.ops;
        (
            read_volatile(&raw const (*ops).local_ip4),
            read_volatile(&raw const (*ops).local_ip6),
            read_volatile(&raw const (*ops).local_port),
        )
    };
    // The context has the local port in host byte order, the remote one in network order.
    Endpoint::new(address(ctx, v4, v6), port as u16)
}

/// The socket's other end.
#[inline(always)]
pub(crate) fn remote(ctx: &SockOpsContext) -> Endpoint {
    // SAFETY: as in `local`.
    let (v4, v6, port) = unsafe {
        let ops = ctx.ops;
        (
            read_volatile(&raw const (*ops).remote_ip4),
            read_volatile(&raw const (*ops).remote_ip6),
            read_volatile(&raw const (*ops).remote_port),
        )
    };
    Endpoint::new(address(ctx, v4, v6), u32::from_be(port) as u16)
}

#[inline(always)]
fn address(ctx: &SockOpsContext, v4: u32, v6: [u32; 4]) -> Address {
    if ctx.family() == AF_INET {
        Address::v4(v4)
    } else {
        Address::v6(v6)
    }
}

/// The socket's cookie.
#[inline(always)]
pub(crate) fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is valid while the program runs.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Asks for further calls about this socket.
#[inline(always)]
pub(crate) fn call_for(ctx: &SockOpsContext, flags: u32) {
    let _ = ctx.set_cb_flags((ctx.cb_flags() | flags) as i32);
}

/// The cookie of the socket's network namespace.
#[inline(always)]
pub(crate) fn netns(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is valid while the program runs.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}
