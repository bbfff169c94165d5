//! reveal: tells an unmodified application its true client.

use core::ptr::read_volatile;

use agent_common::{Address, Counter, Origin};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_get_socket_cookie,
    programs::{SockAddrContext, SockoptContext},
};

use crate::{
    close,
    counters::count,
    maps::{LISTENERS, ORIGINS, PROCESSES},
    sockaddr::{SockAddr4, SockAddr6},
};

/// Levels and options of the UAPI: linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h.
const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
const SO_ORIGINAL_DST: i32 = 80;

/// What `accept()` and `getpeername()` return for an AF_INET socket: the kernel calls the hook for both.
#[inline(always)]
pub(crate) fn peer4(ctx: &SockAddrContext) {
    let Some(origin) = origin(ctx) else { return };
    if !origin.client.address.is_v4() {
        count(Counter::RevealInexpressible);
        return;
    }
    // SAFETY: the context is valid while the program runs.
    unsafe {
        (*ctx.sock_addr).user_ip4 = origin.client.address.0[3];
        (*ctx.sock_addr).user_port = port(origin);
    }
}

/// The same for an AF_INET6 socket, which has an IPv4 client's address in mapped form.
#[inline(always)]
pub(crate) fn peer6(ctx: &SockAddrContext) {
    let Some(origin) = origin(ctx) else { return };
    let Address([a, b, c, d]) = origin.client.address;
    // SAFETY: the context is valid while the program runs.
    unsafe {
        (*ctx.sock_addr).user_ip6[0] = a;
        (*ctx.sock_addr).user_ip6[1] = b;
        (*ctx.sock_addr).user_ip6[2] = c;
        (*ctx.sock_addr).user_ip6[3] = d;
        (*ctx.sock_addr).user_port = port(origin);
    }
}

/// The origin of the context's socket, if it tells more than the wire does. Whoever accepts a
/// connection is noted as its process: it may be closed by the other end before it is released.
#[inline(always)]
fn origin(ctx: &SockAddrContext) -> Option<&'static Origin> {
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let origin = ORIGINS.get_ptr_mut(cookie)?;
    // SAFETY: the entry is this socket's; what is read here is not changed while the socket lives.
    let known = unsafe { &*origin };
    if PROCESSES.load() != 0 && known.process.pid == 0 {
        close::note_process(origin);
    }
    (known.client != known.remote).then_some(known)
}

/// The client's port in network order.
#[inline(always)]
fn port(origin: &Origin) -> u32 {
    origin.client.port.to_be().into()
}

/// Answers `getsockopt(SO_ORIGINAL_DST)` for a connection that was steered to a proxy: its own address
/// is where the client wanted to go. So a proxy that is set up for REDIRECT works unchanged.
#[inline(always)]
pub(crate) fn original_dst(ctx: &SockoptContext) {
    // SAFETY: the context is valid while the program runs.
    let (level, name, sk) = unsafe {
        let sockopt = &*ctx.sockopt;
        (sockopt.level, sockopt.optname, sockopt.__bindgen_anon_1.sk)
    };
    if name != SO_ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6) || sk.is_null() {
        return;
    }
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
        write(ctx, || SockAddr4::new(unsafe { (*sk).src_ip4 }, port))
    } else {
        write(ctx, || {
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
        // SAFETY: the context is valid while the program runs.
        unsafe {
            (*ctx.sockopt).optlen = length as i32;
            (*ctx.sockopt).retval = 0;
        }
    }
}

/// Writes the answer where the caller wants it, and says how long it is. `None`: there is no room.
#[inline(always)]
fn write<T>(ctx: &SockoptContext, answer: impl FnOnce() -> T) -> Option<usize> {
    // SAFETY: the context is valid while the program runs.
    let (value, end) = unsafe {
        let sockopt = &*ctx.sockopt;
        (
            sockopt.__bindgen_anon_2.optval as usize,
            sockopt.__bindgen_anon_3.optval_end as usize,
        )
    };
    if value + size_of::<T>() > end {
        return None;
    }
    // SAFETY: the bounds are checked.
    unsafe { *(value as *mut T) = answer() };
    Some(size_of::<T>())
}
