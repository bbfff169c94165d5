//! learn: writes the origin of a socket, and removes it when the socket closes.

use core::ptr::read_volatile;

use agent_common::{
    Address, Closed, Connection, Counter, Endpoint, Evidence, Listener, ListenerKey, Namespace,
    Origin, Process,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_ANY, BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG, BPF_SOCK_OPS_PARSE_HDR_OPT_CB,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    cty::c_void,
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
        bpf_get_current_uid_gid, bpf_get_netns_cookie, bpf_get_socket_cookie,
        bpf_ktime_get_boot_ns, bpf_map_update_elem,
    },
    programs::{SockContext, SockOpsContext},
};
use aya_log_ebpf::debug;

use crate::{
    counters::count,
    maps::{ADOPT, EVENTS, LISTENERS, NAMESPACES, ORIGINS, OWN, PROXIES},
    steer::AF_INET,
};

/// TCP states (`enum` of include/net/tcp_states.h, UAPI by `BPF_TCP_*`).
const TCP_FIN_WAIT1: u32 = 4;
const TCP_FIN_WAIT2: u32 = 5;
const TCP_CLOSE: u32 = 7;
const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LAST_ACK: u32 = 9;
const TCP_CLOSING: u32 = 11;
/// The FIN bit of the TCP header's flags.
const TCPHDR_FIN: u32 = 1;

/// One call of sockops.
#[inline(always)]
pub(crate) fn socket(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_LISTEN_CB => listen(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ctx),
        BPF_SOCK_OPS_TCP_CONNECT_CB => connects(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => forget(ctx),
        BPF_SOCK_OPS_STATE_CB => changed(ctx, ctx.arg(1)),
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB => received(ctx),
        _ => {}
    }
}

/// Remembers the listener of a proxy that starts, or starts again.
#[inline(always)]
fn listen(ctx: &SockOpsContext) {
    let Some((netns, namespace)) = namespace(ctx) else {
        return;
    };
    let port = ctx.local_port();
    if namespace
        .find(|range| u32::from(range.to) == port)
        .is_none()
    {
        return;
    }
    if let Some(sk) = socket_of(ctx) {
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

/// Remembers a connection that a socket of this host makes to a port that `sk_lookup` steers, before
/// its first packet is sent.
#[inline(always)]
fn connects(ctx: &SockOpsContext) {
    let Some((netns, namespace)) = namespace(ctx) else {
        return;
    };
    let destination = remote(ctx);
    if namespace
        .find(|range| range.steers(0, destination.port))
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
        let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
    }
}

/// Forgets a connection of this host: it failed, or its packets find its socket from now on.
#[inline(always)]
fn forget(ctx: &SockOpsContext) {
    if let Some((netns, _)) = namespace(ctx) {
        let _ = OWN.remove(Connection {
            netns,
            source: local(ctx),
            destination: remote(ctx),
        });
    }
}

/// Learns the origin of a socket that `accept()` is about to return.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let Some((netns, namespace)) = namespace(ctx) else {
        return;
    };
    let Some(sk) = socket_of(ctx) else { return };
    let (local, remote) = (local(ctx), remote(ctx));
    let listener = LISTENERS.get(sk);
    let is_known = match listener {
        // Else the client connected to the proxy's own port.
        Some(listener) => u32::from(local.port) != listener.port,
        None => is_spoofed(ctx, namespace, local, remote),
    };
    if !is_known {
        return;
    }
    let origin = Origin {
        // SAFETY: a helper without arguments.
        since: unsafe { bpf_ktime_get_boot_ns() },
        netns,
        client: remote,
        original_dst: local,
        local,
        remote,
        rule: namespace.spoofed_rule,
        evidence: Evidence::Wire as u8,
        ..Origin::default()
    };
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if ORIGINS.insert(cookie, origin, BPF_NOEXIST.into()).is_err() {
        count(Counter::OriginsFull);
        debug!(
            ctx,
            "the map of origins is full: a connection to port {} is unknown", local.port
        );
        return;
    }
    count(Counter::LearntWire);
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
    if let Some(listener) = listener {
        name_steer(cookie, namespace, listener, local.port);
    }
}

/// Notes which steer brought a connection to the proxy. Last, for the verifier's sake: it goes through
/// whatever follows a search once for each place where the search can end.
#[inline(always)]
fn name_steer(cookie: u64, namespace: &Namespace, listener: Listener, port: u16) {
    let Some(origin) = ORIGINS.get_ptr_mut(cookie) else {
        return;
    };
    if let Some(range) = namespace.find(|range| range.brought(listener.port, port)) {
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
    // SAFETY: `socket_of` found the socket; the verifier translates the access.
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

/// Follows a socket with an origin to its end.
#[inline(always)]
fn changed(ctx: &SockOpsContext, state: u32) {
    match state {
        TCP_FIN_WAIT1 => {
            // Which state follows does not tell whether the other end's FIN has come: look at segments.
            let flags = ctx.cb_flags() | BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG;
            let _ = ctx.set_cb_flags(flags as i32);
        }
        TCP_FIN_WAIT2 => note_fin(ctx, Origin::FIN_ACKED),
        TCP_CLOSE_WAIT => note_fin(ctx, Origin::FIN_RECEIVED),
        TCP_CLOSE => closed(ctx),
        _ => {}
    }
}

/// Sees the segments that come after this end's FIN.
#[inline(always)]
fn received(ctx: &SockOpsContext) {
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*ctx.ops).skb_tcp_flags } & TCPHDR_FIN != 0 {
        note_fin(ctx, Origin::FIN_RECEIVED);
    }
}

#[inline(always)]
fn note_fin(ctx: &SockOpsContext, fin: u8) {
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if let Some(origin) = ORIGINS.get_ptr_mut(cookie) {
        // SAFETY: the entry is this socket's, which the kernel holds locked.
        unsafe { (*origin).fins |= fin };
    }
}

/// Forgets a socket and tells the access log.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the entry is this socket's, and this is its last call.
    let Some(origin) = (unsafe { ORIGINS.get(cookie) }) else {
        return forget(ctx);
    };
    match EVENTS.reserve::<Closed>(0) {
        Some(mut event) => {
            event.write(Closed {
                origin: *origin,
                cookie,
                // SAFETY: a helper without arguments.
                closed: unsafe { bpf_ktime_get_boot_ns() },
                received: bytes_received(ctx, origin),
                sent: bytes_sent(ctx, origin),
            });
            event.submit(0);
        }
        None => count(Counter::EventsLost),
    }
    if ORIGINS.remove(cookie).is_ok() {
        count(Counter::Closed);
    }
}

/// Payload that came in: TCP's count less the FIN.
#[inline(always)]
fn bytes_received(ctx: &SockOpsContext, origin: &Origin) -> u64 {
    // SAFETY: the context is valid while the program runs.
    let bytes = unsafe { (*ctx.ops).bytes_received };
    bytes - u64::from(origin.fins & Origin::FIN_RECEIVED)
}

/// Payload that the other end acknowledged: TCP's count less the FIN.
#[inline(always)]
fn bytes_sent(ctx: &SockOpsContext, origin: &Origin) -> u64 {
    // SAFETY: the context is valid while the program runs.
    let (bytes, all_acked) = unsafe {
        let ops = &*ctx.ops;
        (ops.bytes_acked, ops.snd_una == ops.snd_nxt)
    };
    let last = ctx.arg(0);
    let fin = origin.fins & Origin::FIN_ACKED != 0
        || last == TCP_CLOSING
        || (last == TCP_LAST_ACK && all_acked);
    bytes - u64::from(fin)
}

/// Notes which process gives a socket up: sockops runs in no process's name.
#[inline(always)]
pub(crate) fn release(ctx: &SockContext) {
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let Some(origin) = ORIGINS.get_ptr_mut(cookie) else {
        return;
    };
    let mut process = Process {
        // SAFETY: helpers without arguments.
        pid: unsafe { (bpf_get_current_pid_tgid() >> 32) as u32 },
        uid: unsafe { bpf_get_current_uid_gid() as u32 },
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        comm: [0; 16],
    };
    // SAFETY: the buffer has the length that is passed. On failure the helper clears it. The entry is
    // this socket's, and a socket is released once.
    unsafe {
        bpf_get_current_comm(process.comm.as_mut_ptr().cast(), process.comm.len() as u32);
        (*origin).process = process;
    }
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

/// The socket's namespace and what is to be done there; `None` where there is nothing to do.
#[inline(always)]
fn namespace(ctx: &SockOpsContext) -> Option<(u64, &'static Namespace)> {
    // SAFETY: the context is valid while the program runs.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: entries are replaced, never changed in place.
    let namespace = unsafe { NAMESPACES.get(netns) }?;
    Some((netns, namespace))
}

#[inline(always)]
fn socket_of(ctx: &SockOpsContext) -> Option<*mut c_void> {
    // SAFETY: the context is valid while the program runs.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() { None } else { Some(sk.cast()) }
}

#[inline(always)]
fn local(ctx: &SockOpsContext) -> Endpoint {
    // SAFETY: the context is valid while the program runs. Reads that the compiler may not merge: the
    // verifier takes none at a computed offset.
    let (v4, v6) = unsafe {
        let ops = ctx.ops;
        (
            read_volatile(&raw const (*ops).local_ip4),
            read_volatile(&raw const (*ops).local_ip6),
        )
    };
    // The context has the local port in host byte order, the remote one in network order.
    Endpoint::new(address(ctx, v4, v6), ctx.local_port() as u16)
}

#[inline(always)]
fn remote(ctx: &SockOpsContext) -> Endpoint {
    // SAFETY: as in `local`.
    let (v4, v6) = unsafe {
        let ops = ctx.ops;
        (
            read_volatile(&raw const (*ops).remote_ip4),
            read_volatile(&raw const (*ops).remote_ip6),
        )
    };
    Endpoint::new(address(ctx, v4, v6), u32::from_be(ctx.remote_port()) as u16)
}

#[inline(always)]
fn address(ctx: &SockOpsContext, v4: u32, v6: [u32; 4]) -> Address {
    if ctx.family() == AF_INET {
        Address::v4(v4)
    } else {
        Address::v6(v6)
    }
}
