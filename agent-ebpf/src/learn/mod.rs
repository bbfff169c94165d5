//! learn: writes the origin of a socket, in time for `accept()`.

use agent_common::{
    Claim, Connection, Counter, Endpoint, Evidence, Listener, ListenerKey, Namespace, Origin, Syn,
};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, BPF_SOCK_OPS_STATE_CB_FLAG},
    cty::c_void,
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_map_update_elem},
    programs::SockOpsContext,
};
use aya_log_ebpf::debug;

use crate::{
    carry,
    counters::count,
    maps::{ADOPT, CLAIMS, HANDOVERS, LISTENERS, ORIGINS, OWN, PROXIES},
    sockops::{self, local, namespace, remote},
    tag, toa,
};

const WIRE: u8 = Evidence::Wire as u8;
const TOA: u8 = Evidence::Toa as u8;
const SNAT: u8 = Evidence::Snat as u8;
const PROXY: u8 = Evidence::Proxy as u8;
const XFF: u8 = Evidence::Xff as u8;

/// Follows what the agent's own relay accepts to its end, should it have an origin: accepted sockets
/// inherit the flag.
#[inline(always)]
pub(crate) fn relays(ctx: &SockOpsContext) {
    if sockops::socket(ctx).and_then(|sk| CLAIMS.get(sk)).is_some() {
        sockops::call_for(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
    }
}

/// Remembers the listener of a proxy that starts, or starts again.
#[inline(always)]
pub(crate) fn listen(ctx: &SockOpsContext) {
    let Some((netns, namespace)) = namespace(ctx) else {
        return;
    };
    let port = ctx.local_port();
    if namespace.find(|range| range.is_proxys(port)).is_none() {
        return;
    }
    if let Some(sk) = sockops::socket(ctx) {
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

/// Remembers a connection that a socket of this host makes to a steered port, before its first packet
/// is sent.
#[inline(never)]
pub(crate) fn connects(ctx: &SockOpsContext) {
    let Some((netns, namespace)) = namespace(ctx) else {
        return;
    };
    let destination = remote(ctx);
    if namespace
        .find(|range| range.steers(range.ifindex, destination.port))
        .is_none()
    {
        return;
    }
    let own = Connection {
        netns,
        source: local(ctx),
        destination,
    };
    if OWN.insert(own, 0, BPF_ANY.into()).is_ok() {
        sockops::call_for(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
    }
}

/// Forgets a connection of this host: it failed, or its packets find its socket from now on.
#[inline(never)]
pub(crate) fn forget_connection(ctx: &SockOpsContext) {
    if let Some((netns, _)) = namespace(ctx) {
        let _ = OWN.remove(Connection {
            netns,
            source: local(ctx),
            destination: remote(ctx),
        });
    }
}

/// Learns the origin of a socket that `accept()` is about to return.
#[inline(never)]
pub(crate) fn accepted(ctx: &SockOpsContext) {
    let (local, remote) = (local(ctx), remote(ctx));
    if let Some(claim) = handed_over(ctx, local, remote) {
        let client = carry::named_by(&claim, remote.port);
        // All zero where nobody said.
        let original_dst = match claim.original_dst.port {
            0 => local,
            _ => claim.original_dst,
        };
        let origin = Origin {
            client,
            original_dst,
            local,
            remote,
            rule: claim.rule,
            evidence: claim.evidence,
            header: claim.header,
            ..Origin::default()
        };
        if write(ctx, origin) {
            count(match claim.evidence {
                PROXY => Counter::LearntProxy,
                XFF => Counter::LearntXff,
                TOA => Counter::LearntToa,
                SNAT => Counter::LearntSnat,
                WIRE => Counter::LearntWire,
                _ => Counter::LearntBind,
            });
        }
        return;
    }
    let Some((_, namespace)) = namespace(ctx) else {
        return;
    };
    let Some(sk) = sockops::socket(ctx) else {
        return;
    };
    let listener = LISTENERS.get(sk);
    let is_known = match listener {
        // Else the client connected to the proxy's own port.
        Some(listener) => u32::from(local.port) != listener.port,
        None => is_spoofed(ctx, namespace, local, remote),
    };
    if !is_known
        || !write(
            ctx,
            Origin {
                client: remote,
                original_dst: local,
                local,
                remote,
                rule: namespace.spoofed_rule,
                evidence: WIRE,
                ..Origin::default()
            },
        )
    {
        return;
    }
    count(Counter::LearntWire);
    name_steer(sockops::cookie(ctx), namespace, listener, local.port);
}

/// What was said about the client of a connection that is being accepted.
#[inline(always)]
fn handed_over(ctx: &SockOpsContext, local: Endpoint, remote: Endpoint) -> Option<Claim> {
    let syn = Syn {
        source: remote,
        destination: local,
        // SAFETY: the context is valid while the program runs.
        isn: unsafe { (*ctx.ops).rcv_nxt }.wrapping_sub(1),
    };
    // SAFETY: values are never changed in place.
    let claim = *unsafe { HANDOVERS.get(syn) }?;
    let _ = HANDOVERS.remove(syn);
    if claim.is_signed != 0 {
        tag::used(claim.client, syn.isn);
    }
    (claim.evidence != 0).then_some(claim)
}

/// Writes an origin for the socket, with time and namespace, and has its end told. `false`: there was no
/// room.
#[inline(always)]
fn write(ctx: &SockOpsContext, origin: Origin) -> bool {
    // Of interest even without an origin: what else is known of the socket goes with it.
    sockops::call_for(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
    let origin = Origin {
        // SAFETY: a helper without arguments.
        since: unsafe { bpf_ktime_get_boot_ns() },
        netns: sockops::netns(ctx),
        ..origin
    };
    if ORIGINS
        .insert(sockops::cookie(ctx), origin, BPF_NOEXIST.into())
        .is_err()
    {
        count(Counter::OriginsFull);
        debug!(
            ctx,
            "the map of origins is full: a connection to port {} is unknown", origin.local.port
        );
        return false;
    }
    true
}

/// Notes which steer brought a connection to the proxy, or to the application by way of the proxy. Last,
/// for the verifier's sake: it goes through whatever follows a search once for each place where the
/// search can end.
#[inline(always)]
fn name_steer(cookie: u64, namespace: &Namespace, listener: Option<Listener>, port: u16) {
    let Some(origin) = ORIGINS.get_ptr_mut(cookie) else {
        return;
    };
    let range = match listener {
        Some(listener) => namespace.find(|range| range.brought(listener.port, port)),
        None => namespace.find(|range| range.steers(range.ifindex, port)),
    };
    if let Some(range) = range {
        // SAFETY: the entry is this socket's, which no other program sees before `accept()`.
        unsafe { (*origin).rule = range.rule };
    }
}

/// Whether the mark says that a local proxy spoofed the client of this connection. A proxy that marks
/// its connection but keeps its own address says nothing.
#[inline(always)]
fn is_spoofed(
    ctx: &SockOpsContext,
    namespace: &Namespace,
    local: Endpoint,
    remote: Endpoint,
) -> bool {
    // SAFETY: `sockops::socket` found the socket; the verifier translates the access.
    let mark = unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        (*sk).mark
    };
    namespace.spoofed.matches(mark)
        && remote.address != local.address
        && !remote.address.is_loopback()
}

/// `struct bpf_iter__tcp`.
#[repr(C)]
pub(crate) struct IterTcp {
    meta: *mut c_void,
    sk_common: *mut c_void,
    uid: u32,
}

/// Treats a listener of the `ADOPT` map as if it had just begun to listen.
#[inline(always)]
pub(crate) fn adopt(ctx: *mut IterTcp) {
    // SAFETY: the context is valid while the program runs; the fields are UAPI of the iterator.
    let sk = unsafe { (*ctx).sk_common };
    if sk.is_null() {
        return;
    }
    // SAFETY: a socket of the iterator, valid during this call.
    let cookie = unsafe { bpf_get_socket_cookie(sk) };
    // SAFETY: the agent fills the map before it iterates.
    let Some(key) = (unsafe { ADOPT.get(cookie) }) else {
        return;
    };
    let key = *key;
    toa::adopts(sk);
    if key.port == 0 {
        return;
    }
    LISTENERS.set(sk, Listener { port: key.port });
    // SAFETY: key and socket are what a sockhash takes.
    unsafe {
        bpf_map_update_elem(
            core::ptr::from_ref(&PROXIES).cast_mut().cast(),
            core::ptr::from_ref(&key).cast(),
            sk.cast_const(),
            BPF_ANY.into(),
        )
    };
}
