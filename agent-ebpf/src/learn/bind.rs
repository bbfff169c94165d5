//! learn from `bind`: a trusted proxy that binds its upstream socket to a client's address is taken at
//! its word. The address is recorded, the bind made an ordinary one, and no packet is spoofed.

use core::ptr::write_volatile;

use agent_common::{Address, Claim, Endpoint, Evidence};
use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_uid_gid},
    programs::{SockAddrContext, SockoptContext},
};

use crate::maps::{CLAIMS, TRUSTED_CGROUPS, TRUSTED_UIDS};

const SOCK_STREAM: u32 = 1;
/// Levels and options of the UAPI (linux/socket.h, linux/in.h, linux/in6.h).
const SOL_IP: i32 = 0;
const SOL_SOCKET: i32 = 1;
const SOL_IPV6: i32 = 41;
const SO_MARK: i32 = 36;
const IP_FREEBIND: i32 = 15;
const IP_TRANSPARENT: i32 = 19;
const IPV6_TRANSPARENT: i32 = 75;
const IPV6_FREEBIND: i32 = 78;
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
/// How deep a trusted cgroup can lie below the root.
const MAX_DEPTH: i32 = 8;

/// Grants a trusted proxy's request to use a foreign address, which needs a capability otherwise.
#[inline(always)]
pub(crate) fn ask(ctx: &SockoptContext) {
    // SAFETY: the context is valid while the program runs.
    let (level, name) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    let asks = match level {
        SOL_IP => name == IP_TRANSPARENT || name == IP_FREEBIND,
        SOL_IPV6 => name == IPV6_TRANSPARENT || name == IPV6_FREEBIND,
        SOL_SOCKET => name == SO_MARK,
        _ => false,
    };
    if !asks {
        return;
    }
    let Some(rule) = trusting_rule() else { return };
    // SAFETY: as above; the verifier knows this pointer as a socket.
    let sk = unsafe { (*ctx.sockopt).__bindgen_anon_1.sk };
    if level != SOL_SOCKET && !sk.is_null() && is_on(ctx) {
        CLAIMS.set(
            sk.cast(),
            Claim {
                rule,
                ..Claim::default()
            },
        );
    }
    // A proxy of root may listen on foreign addresses, for which the kernel's own option is needed.
    if uid() != 0 {
        // The program has handled the call (Linux 5.3, `cgroup/setsockopt`).
        // SAFETY: as above.
        unsafe { (*ctx.sockopt).optlen = -1 };
    }
}

/// Whether the option is being switched on: its value is an `int` other than zero.
#[inline(always)]
fn is_on(ctx: &SockoptContext) -> bool {
    // SAFETY: the context is valid while the program runs, and the bounds are checked.
    unsafe {
        let value = (*ctx.sockopt).__bindgen_anon_2.optval.cast::<i32>();
        let end = (*ctx.sockopt).__bindgen_anon_3.optval_end;
        value.add(1) as usize <= end as usize && *value != 0
    }
}

/// The rule that trusts the current process, by its user or by a cgroup that it is in.
#[inline(always)]
fn trusting_rule() -> Option<u32> {
    // SAFETY: values are never changed in place.
    if let Some(rule) = unsafe { TRUSTED_UIDS.get(uid()) } {
        return Some(*rule);
    }
    for level in 0..=MAX_DEPTH {
        // SAFETY: a helper that takes any number.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup == 0 {
            break;
        }
        // SAFETY: as above.
        if let Some(rule) = unsafe { TRUSTED_CGROUPS.get(cgroup) } {
            return Some(*rule);
        }
    }
    None
}

#[inline(always)]
fn uid() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_uid_gid() as u32 }
}

/// Takes a bind of an AF_INET socket as evidence.
#[inline(always)]
pub(crate) fn bind4(ctx: &SockAddrContext) {
    // SAFETY: the context is valid while the program runs.
    let word = unsafe { (*ctx.sock_addr).user_ip4 };
    if take(ctx.sock_addr, Address::v4(word)) {
        // SAFETY: as above.
        unsafe { (*ctx.sock_addr).user_ip4 = 0 };
    }
}

/// Takes a bind of an AF_INET6 socket as evidence.
#[inline(always)]
pub(crate) fn bind6(ctx: &SockAddrContext) {
    // SAFETY: the context is valid while the program runs.
    let words = unsafe { (*ctx.sock_addr).user_ip6 };
    if take(ctx.sock_addr, Address::v6(words)) {
        for i in 0..words.len() {
            // SAFETY: as above. Writes that the compiler may not make one: the verifier takes four, at
            // fixed offsets.
            unsafe { write_volatile(&raw mut (*ctx.sock_addr).user_ip6[i], 0) };
        }
    }
}

/// Records the client, if the socket is one that a trusted proxy asked a foreign address for.
#[inline(always)]
fn take(ctx: *mut bpf_sock_addr, address: Address) -> bool {
    // SAFETY: the context is valid while the program runs.
    let (kind, sk) = unsafe { ((*ctx).type_, (*ctx).__bindgen_anon_1.sk) };
    if kind != SOCK_STREAM || !address.is_host() || sk.is_null() {
        return false;
    }
    // SAFETY: as above.
    let port = u16::from_be(unsafe { (*ctx).user_port } as u16);
    // No client has such a port, but a transparent listener may.
    if port != 0 && port < FIRST_UNPRIVILEGED_PORT {
        return false;
    }
    let Some(claim) = CLAIMS.get_ptr(sk.cast()) else {
        return false;
    };
    // SAFETY: the value is the socket's, which the kernel holds locked; the context as above.
    unsafe {
        (*claim).client = Endpoint::new(address, port);
        (*claim).evidence = Evidence::Bind as u8;
        (*ctx).user_port = 0;
    }
    true
}
