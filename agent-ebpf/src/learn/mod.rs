//! learn: writes the origin of a socket, in time for `accept()`.

pub(crate) mod bind;
pub(crate) mod hear;
pub(crate) mod process;
pub(crate) mod refused;
pub(crate) mod snat;
pub(crate) mod tag;
pub(crate) mod toa;
pub(crate) mod trust;

use agent_common::{Claim, Counter, Endpoint, Evidence, Listener, Namespace, Origin, Syn};
use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SOCK_OPS_STATE_CB_FLAG},
    programs::SockOpsContext,
};
use aya_log_ebpf::debug;

use crate::{
    kernel::{
        clock::boottime,
        context::{Cookie as _, InNetns as _, SockOps as _},
    },
    maps::{CLAIMS, HANDOVERS, LISTENERS, ORIGINS, Replaced as _},
    tell::count,
};

/// The agent's own relay begins to listen. Follows what it accepts to its end, in case it gets an origin:
/// accepted sockets inherit the flag.
#[inline(always)]
pub(crate) fn relay_listens(ctx: &SockOpsContext) {
    if ctx.socket().and_then(|sk| CLAIMS.get(sk)).is_some() {
        ctx.call_for(BPF_SOCK_OPS_STATE_CB_FLAG);
    }
}

/// Learns the origin of a socket that `accept()` is about to return.
#[inline(never)]
pub(crate) fn accepted(ctx: &SockOpsContext) {
    let (local, remote) = (ctx.local(), ctx.remote());
    if let Some(claim) = handed_over(ctx, local, remote) {
        let client = claim.client_behind(remote.port);
        // All zero if nobody said.
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
        if record(ctx, origin) {
            count(counter(claim.evidence));
        }
        return;
    }
    let Some((_, namespace)) = ctx.namespace() else {
        return;
    };
    let Some(sk) = ctx.socket() else {
        return;
    };
    let listener = LISTENERS.get(sk);
    let is_known = match listener {
        // If they are equal, the client connected to the proxy's own port.
        Some(listener) => u32::from(local.port) != listener.port,
        None => is_spoofed(ctx, namespace, local, remote),
    };
    if !is_known
        || !record(
            ctx,
            Origin {
                client: remote,
                original_dst: local,
                local,
                remote,
                rule: namespace.spoofed_rule,
                evidence: Evidence::Wire as u8,
                ..Origin::default()
            },
        )
    {
        return;
    }
    count(Counter::LearntWire);
    name_steer(ctx.cookie(), namespace, listener, local.port);
}

/// The counter of origins with this evidence.
#[inline(always)]
fn counter(evidence: u8) -> Counter {
    const WIRE: u8 = Evidence::Wire as u8;
    const TOA: u8 = Evidence::Toa as u8;
    const SNAT: u8 = Evidence::Snat as u8;
    const PROXY: u8 = Evidence::Proxy as u8;
    const XFF: u8 = Evidence::Xff as u8;
    match evidence {
        PROXY => Counter::LearntProxy,
        XFF => Counter::LearntXff,
        TOA => Counter::LearntToa,
        SNAT => Counter::LearntSnat,
        WIRE => Counter::LearntWire,
        _ => Counter::LearntBind,
    }
}

/// What was said about the client of a connection that is being accepted.
#[inline(always)]
fn handed_over(ctx: &SockOpsContext, local: Endpoint, remote: Endpoint) -> Option<Claim> {
    let syn = Syn {
        source: remote,
        destination: local,
        isn: ctx.rcv_nxt().wrapping_sub(1),
    };
    let claim = *HANDOVERS.look_up(syn)?;
    let _ = HANDOVERS.remove(syn);
    if claim.is_signed != 0 {
        tag::used(claim.client, syn.isn);
    }
    // What a proxy says that is believed in its own namespace only may have reached another.
    let holds = claim.names_client()
        && claim.holds_in(ctx.netns())
        && snat::is_confirmed(&claim, &syn, ctx.snd_una().wrapping_sub(1));
    holds.then_some(claim)
}

/// Records an origin for the socket, with time and namespace, and asks to be told of the socket's end.
/// `false` if there was no room.
#[inline(always)]
fn record(ctx: &SockOpsContext, origin: Origin) -> bool {
    // The end matters even without an origin: whatever else is known of the socket goes with it.
    ctx.call_for(BPF_SOCK_OPS_STATE_CB_FLAG);
    let origin = Origin {
        since: boottime(),
        netns: ctx.netns(),
        ..origin
    };
    if ORIGINS
        .insert(ctx.cookie(), origin, BPF_NOEXIST.into())
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

/// Notes which steer brought a connection to the proxy, or to the application by way of the proxy. This comes
/// last for the verifier's sake, which goes through whatever follows a search once for each place where the
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
    let Some(mark) = ctx.mark() else {
        return false;
    };
    namespace.spoofed.matches(mark)
        && remote.address != local.address
        && !remote.address.is_loopback()
}
