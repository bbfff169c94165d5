//! learn from `bind`: a trusted proxy that binds its upstream socket to a client's address is taken at its
//! word. Its address is recorded, the bind becomes an ordinary one, and no packet is spoofed.

use agent_common::{Address, Claim, Endpoint, Evidence, kernel::Version, trust::LocalProxy};
use aya_ebpf::programs::{SockAddrContext, SockoptContext};

use crate::{
    kernel::{
        context::InNetns as _,
        sockaddr::ANY,
        syscall::{SockAddr as _, Sockopt as _},
        task,
        uapi::{
            CAP_NET_ADMIN, CAP_NET_RAW, IP_TRANSPARENT, IPV6_TRANSPARENT, SO_MARK, SOCK_STREAM,
            SOL_IP, SOL_IPV6, SOL_SOCKET,
        },
    },
    maps::{CLAIMS, Replaced as _, TRUSTED_CGROUPS, TRUSTED_UIDS, kernel_has},
};

const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
/// How deep a trusted cgroup can lie below the root.
const MAX_DEPTH: i32 = 8;

/// A process sets an option by which it may use a client's address and mark its packets. That a trusted proxy asks for
/// transparency is noted. If it lacks the capability, the call succeeds without effect; otherwise the kernel does as it is
/// asked. `IP_FREEBIND` takes no capability and is about addresses that the host does not have yet: it is no claim.
#[inline(always)]
pub(crate) fn ask(ctx: &SockoptContext) {
    let (level, name) = (ctx.level(), ctx.optname());
    let is_transparency = match level {
        SOL_IP => name == IP_TRANSPARENT,
        SOL_IPV6 => name == IPV6_TRANSPARENT,
        _ => false,
    };
    let is_mark = level == SOL_SOCKET && name == SO_MARK;
    // To switch transparency off takes no capability.
    if !(is_mark || is_transparency && is_on(ctx)) {
        return;
    }
    // What a proxy asks for other sockets than TCP's concerns no connection.
    if ctx.socket_type() != Some(SOCK_STREAM) {
        return;
    }
    let (Some(sk), Some(proxy)) = (ctx.socket(), trusted()) else {
        return;
    };
    if is_transparency {
        CLAIMS.set(sk.cast(), Claim::of_proxy(proxy, ctx.netns()));
    }
    let needed = if is_mark && !kernel_has(Version::RAW_SETS_MARKS) {
        CAP_NET_ADMIN
    } else {
        CAP_NET_ADMIN | CAP_NET_RAW
    };
    if !task::has_one_of(needed) {
        ctx.set_optlen(-1);
    }
}

/// Whether the option is being switched on, by an `int` other than zero.
#[inline(always)]
fn is_on(ctx: &SockoptContext) -> bool {
    // SAFETY: the buffer has room for the value, and any bits are a valid one.
    ctx.optval::<i32>()
        .is_some_and(|value| unsafe { *value } != 0)
}

/// What the current process is believed: by its user, or else by the innermost trusted cgroup that it is in. An older kernel tells only the
/// cgroup that the process is in directly.
#[inline(always)]
fn trusted() -> Option<LocalProxy> {
    if let Some(proxy) = TRUSTED_UIDS.look_up(task::uid()) {
        return Some(*proxy);
    }
    if !kernel_has(Version::SOCKOPT_HAS_ANCESTORS) {
        return TRUSTED_CGROUPS.look_up(task::cgroup()).copied();
    }
    let mut innermost = None;
    for depth in 0..=MAX_DEPTH {
        let Some(cgroup) = task::cgroup_at(depth) else {
            break;
        };
        if let Some(proxy) = TRUSTED_CGROUPS.look_up(cgroup) {
            innermost = Some(*proxy);
        }
    }
    innermost
}

/// An AF_INET socket is about to be bound.
#[inline(always)]
pub(crate) fn bind4(ctx: &SockAddrContext) {
    if take(ctx, ctx.user_v4()) {
        ctx.set_user_v4(ANY);
    }
}

/// An AF_INET6 socket is about to be bound.
#[inline(always)]
pub(crate) fn bind6(ctx: &SockAddrContext) {
    if take(ctx, ctx.user_v6()) {
        ctx.set_user_v6(ANY);
    }
}

/// Takes the bind as evidence if a trusted proxy asked for a foreign address on the socket. Returns whether
/// it did.
#[inline(always)]
fn take(ctx: &SockAddrContext, address: Address) -> bool {
    let (socket_type, socket) = (ctx.socket_type(), ctx.socket());
    let is_clients = socket_type == SOCK_STREAM && address.is_host();
    let Some(sk) = socket.filter(|_| is_clients) else {
        return false;
    };
    let port = ctx.user_port();
    // No client has such a port, but a transparent listener may.
    if port != 0 && port < FIRST_UNPRIVILEGED_PORT {
        return false;
    }
    let Some(claim) = CLAIMS.get_ptr(sk) else {
        return false;
    };
    // SAFETY: the value is the socket's, which the kernel holds locked.
    unsafe {
        (*claim).client = Endpoint::new(address, port);
        (*claim).evidence = Evidence::Bind as u8;
    }
    ctx.set_user_port(0);
    true
}
