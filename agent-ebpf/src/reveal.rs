//! reveal: tells an unmodified application its true client.

use core::ptr::read_volatile;

use agent_common::{Claim, Counter, Endpoint, Origin, unwrap::Refusal};
use aya_ebpf::programs::{SockAddrContext, SockoptContext};

use crate::{
    kernel::{
        context::Cookie as _,
        sockaddr::{SockAddr4, SockAddr6},
        socket::Socket,
        syscall::{SockAddr as _, Sockopt as _},
        uapi::{SO_ORIGINAL_DST, SOL_IP, SOL_IPV6},
    },
    learn::{process, refused},
    maps::{LISTENERS, ORIGINS, PROCESSES},
    tell::count,
};

/// What `accept()` and `getpeername()` return for an AF_INET socket: the kernel calls the hook for both.
#[inline(always)]
pub(crate) fn peer4(ctx: &SockAddrContext) {
    let Some(origin) = origin(ctx) else { return };
    if !origin.client.address.is_v4() {
        count(Counter::RevealInexpressible);
        return;
    }
    ctx.set_user_v4(origin.client.address);
    ctx.set_user_port(origin.client.port);
}

/// What `accept()` and `getpeername()` return for an AF_INET6 socket, where an IPv4 client's address stands
/// in mapped form.
#[inline(always)]
pub(crate) fn peer6(ctx: &SockAddrContext) {
    let Some(origin) = origin(ctx) else { return };
    ctx.set_user_v6(origin.client.address);
    ctx.set_user_port(origin.client.port);
}

/// The origin of the context's socket, if it tells more than the wire does. Notes whoever accepts a
/// connection as its process: the other end may close it before the process releases it.
#[inline(always)]
fn origin(ctx: &SockAddrContext) -> Option<&'static Origin> {
    let origin = ORIGINS.get_ptr_mut(ctx.cookie())?;
    // SAFETY: the entry is this socket's; what is read here is not changed while the socket lives.
    let known = unsafe { &*origin };
    if PROCESSES.load() != 0 && known.process.pid == 0 {
        process::note(origin);
    }
    (known.client != known.remote).then_some(known)
}

/// Whether an application with this socket, or with one that this listener accepts, cannot be told the client: an IPv4
/// socket cannot express an IPv6 address. It would see the last hop, perhaps a loopback address, which many rules trust.
#[inline(always)]
pub(crate) fn is_inexpressible(claim: &Claim, sk: &Socket) -> bool {
    sk.is_v4() && !claim.client.address.is_v4()
}

/// Counts a connection that is refused because its client is inexpressible, and tells the access log.
#[inline(never)]
pub(crate) fn refuse(claim: &Claim, source: &Endpoint, destination: &Endpoint, counter: Counter) {
    count(counter);
    refused::log(claim, source, destination, Refusal::Inexpressible, 0);
}

/// Answers `getsockopt(SO_ORIGINAL_DST)` for a connection that was steered to a proxy: its own address is
/// where the client wanted to go. A proxy that is set up for REDIRECT works unchanged.
#[inline(always)]
pub(crate) fn original_dst(ctx: &SockoptContext) {
    let level = ctx.level();
    if ctx.optname() != SO_ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6) {
        return;
    }
    let Some(sk) = ctx.socket() else { return };
    let Some(listener) = LISTENERS.get(sk.cast()) else {
        return;
    };
    // SAFETY: not null, and a socket of the context.
    let port = unsafe { (*sk).src_port };
    if port == listener.port {
        return;
    }
    let port = (port as u16).to_be();
    let written = if level == SOL_IP {
        // SAFETY: as for the port.
        answer_with(ctx, || SockAddr4::new(unsafe { (*sk).src_ip4 }, port))
    } else {
        answer_with(ctx, || {
            // SAFETY: as for the port. Reads that the compiler may not make one: the verifier takes them
            // at fixed offsets.
            let address = unsafe {
                [
                    read_volatile(&raw const (*sk).src_ip6[0]),
                    read_volatile(&raw const (*sk).src_ip6[1]),
                    read_volatile(&raw const (*sk).src_ip6[2]),
                    read_volatile(&raw const (*sk).src_ip6[3]),
                ]
            };
            SockAddr6::new(address, port)
        })
    };
    if let Some(length) = written {
        ctx.set_optlen(length as i32);
        ctx.succeed();
    }
}

/// Writes the answer to the caller's buffer and returns its length, or `None` if the buffer is too small.
#[inline(always)]
fn answer_with<T>(ctx: &SockoptContext, answer: impl FnOnce() -> T) -> Option<usize> {
    let value = ctx.optval::<T>()?;
    // SAFETY: the buffer has room for it.
    unsafe { *value = answer() };
    Some(size_of::<T>())
}
