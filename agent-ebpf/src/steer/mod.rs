//! steer: brings a connection to a local proxy without NAT.
//!
//! Only the first segment of a connection is decided on. Whatever belongs to a socket goes to that
//! socket, and whatever the proxy cannot take passes as if truepeer were absent.

use core::ptr::read_volatile;

use agent_common::{Address, Connection, Counter, Endpoint, ListenerKey, Namespace, Range};
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup as FibParams,
        bpf_sock_tuple,
    },
    cty::c_long,
    helpers::generated::bpf_fib_lookup,
    programs::{SkLookupContext, TcContext},
};
use aya_log_ebpf::debug;

use crate::{
    affinity,
    counters::count,
    maps::{NAMESPACES, NETNS, OWN, PROXIES},
    packet::{self, Segment},
    socket::{Socket, TCP_TIME_WAIT},
};

/// Address families of the UAPI.
pub(crate) const AF_INET: u32 = 2;
pub(crate) const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;

/// Steers one packet at tc ingress.
#[inline(always)]
pub(crate) fn packet(ctx: &TcContext) {
    let Some(segment) = packet::read(ctx) else {
        return;
    };
    // SAFETY: entries are replaced, never changed in place.
    let Some(namespace) = (unsafe { NAMESPACES.get(NETNS.load()) }) else {
        return;
    };
    // SAFETY: the context is valid while the program runs.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let Some(range) = namespace.find(|range| range.concerns(ifindex, segment.port)) else {
        return;
    };
    let found = Socket::lookup(ctx, &segment.tuple, segment.tuple_size());
    let mut reopens = false;
    if let Some(sk) = found {
        reopens = segment.opens() && sk.state() == TCP_TIME_WAIT;
        if !reopens && !sk.listens() {
            if sk.assign(ctx) {
                mark(ctx, namespace, &range);
            }
            return;
        }
    }
    if range.flags & Range::ANSWERS == 0 {
        connect(ctx, &segment, namespace, &range, reopens);
    }
}

/// Brings the first segment of a connection, or the ACK of a SYN cookie, to the proxy's listener.
#[inline(always)]
fn connect(
    ctx: &TcContext,
    segment: &Segment,
    namespace: &Namespace,
    range: &Range,
    reopens: bool,
) {
    if !segment.opens() && !segment.acknowledges() {
        return;
    }
    let family = if segment.v6 { AF_INET6 } else { AF_INET };
    let client = segment.source().address;
    let to = affinity::port(range, NETNS.load(), family, &client);
    if namespace.draining != 0 && segment.opens() {
        count(Counter::Drained);
        return;
    }
    // An assigned socket makes the kernel drop what it would forward.
    if range.is_sidecar() && !is_local(ctx, client, segment.destination().address) {
        return;
    }
    let Some(listener) = find_listener(ctx, segment, to) else {
        if segment.opens() {
            count(Counter::NoListener);
            debug!(
                ctx,
                "no listener on port {}: a connection to port {} passes", to, segment.port
            );
        }
        return;
    };
    if !segment.opens() && !listener.sent_cookie(segment) {
        return;
    }
    // Where the client uses a port again that an old connection still has (TIME_WAIT), the kernel alone
    // can put an end to that: it does, and then asks `lookup` for the listener.
    if reopens || listener.assign(ctx) {
        mark(ctx, namespace, range);
        if segment.opens() {
            count(Counter::Steered);
        }
    }
}

/// Marks what a gateway keeps, so that the rules of the interface deliver it here.
#[inline(always)]
fn mark(ctx: &TcContext, namespace: &Namespace, range: &Range) {
    if !range.is_sidecar() {
        // SAFETY: the context is valid while the program runs.
        let mark = unsafe { (*ctx.skb.skb).mark };
        ctx.set_mark(namespace.gateway.apply(mark));
    }
}

/// The listener of the proxy on port `to`: bound to any address or to the packet's destination,
/// else to loopback.
#[inline(always)]
fn find_listener(ctx: &TcContext, segment: &Segment, to: u16) -> Option<Socket> {
    let mut tuple = segment.tuple;
    set_destination_port(&mut tuple, segment.v6, to);
    if let Some(sk) = Socket::lookup(ctx, &tuple, segment.tuple_size())
        && sk.listens()
    {
        return Some(sk);
    }
    // Either nothing, or the client's connection to the proxy's own port by the same source port:
    // a lookup with no source port finds listeners only.
    clear_source_port(&mut tuple, segment.v6);
    if let Some(sk) = Socket::lookup(ctx, &tuple, segment.tuple_size())
        && sk.listens()
    {
        return Some(sk);
    }
    set_loopback(&mut tuple, segment.v6);
    let sk = Socket::lookup(ctx, &tuple, segment.tuple_size())?;
    if sk.listens() { Some(sk) } else { None }
}

#[inline(always)]
fn set_destination_port(tuple: &mut bpf_sock_tuple, v6: bool, port: u16) {
    if v6 {
        tuple.__bindgen_anon_1.ipv6.dport = port.to_be();
    } else {
        tuple.__bindgen_anon_1.ipv4.dport = port.to_be();
    }
}

#[inline(always)]
fn clear_source_port(tuple: &mut bpf_sock_tuple, v6: bool) {
    if v6 {
        tuple.__bindgen_anon_1.ipv6.sport = 0;
    } else {
        tuple.__bindgen_anon_1.ipv4.sport = 0;
    }
}

#[inline(always)]
fn set_loopback(tuple: &mut bpf_sock_tuple, v6: bool) {
    if v6 {
        tuple.__bindgen_anon_1.ipv6.daddr = [0, 0, 0, 1u32.to_be()];
    } else {
        tuple.__bindgen_anon_1.ipv4.daddr = u32::from_ne_bytes([127, 0, 0, 1]);
    }
}

/// Whether the kernel would deliver the packet to this host: it says that it will not forward it.
#[inline(always)]
pub(crate) fn is_local(ctx: &TcContext, from: Address, to: Address) -> bool {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut params: FibParams = unsafe { core::mem::zeroed() };
    params.l4_protocol = IPPROTO_TCP as u8;
    // SAFETY: the context is valid while the program runs.
    params.ifindex = unsafe { (*ctx.skb.skb).ifindex };
    if to.is_v4() {
        params.family = AF_INET as u8;
        params.__bindgen_anon_3.ipv4_src = from.0[3];
        params.__bindgen_anon_4.ipv4_dst = to.0[3];
    } else {
        params.family = AF_INET6 as u8;
        params.__bindgen_anon_3.ipv6_src = from.0;
        params.__bindgen_anon_4.ipv6_dst = to.0;
    }
    // SAFETY: the parameters live on the stack and have the size that is passed.
    let answer = unsafe {
        bpf_fib_lookup(
            ctx.skb.skb.cast(),
            &mut params,
            size_of::<FibParams>() as i32,
            0,
        )
    };
    answer == BPF_FIB_LKUP_RET_NOT_FWDED as c_long
        || answer == BPF_FIB_LKUP_RET_FWD_DISABLED as c_long
}

/// Picks the proxy's listener for a connection to one of this host's addresses, or for one whose port
/// is used again ([`connect`]).
#[inline(always)]
pub(crate) fn lookup(ctx: &SkLookupContext) {
    // SAFETY: the context is valid while the program runs.
    let (protocol, family, port, ifindex) = unsafe {
        let lookup = &*ctx.lookup;
        (
            lookup.protocol,
            lookup.family,
            lookup.local_port,
            lookup.ingress_ifindex,
        )
    };
    if protocol != IPPROTO_TCP {
        return;
    }
    let netns = NETNS.load();
    // SAFETY: entries are replaced, never changed in place.
    let Some(namespace) = (unsafe { NAMESPACES.get(netns) }) else {
        return;
    };
    let wanted = |range: &Range| range.steers(0, port as u16) || range.steers(ifindex, port as u16);
    let Some(range) = namespace.find(wanted) else {
        return;
    };
    // What this host itself connects to is left alone: the proxy's own connections to the application,
    // which must not come back to the proxy. The interface would not tell: a packet to an own address
    // counts as received on the interface that has the address.
    let connection = connection(ctx, netns, family, port);
    // SAFETY: nobody writes to a value.
    if unsafe { OWN.get(connection) }.is_some() {
        return;
    }
    // What comes in by a steered interface was counted there.
    let tally = |counter| {
        if range.ifindex == 0 {
            count(counter);
        }
    };
    if namespace.draining != 0 {
        return tally(Counter::Drained);
    }
    let to = affinity::port(&range, netns, family, &connection.source.address);
    let key = |family| ListenerKey {
        netns,
        port: to.into(),
        family,
    };
    let chosen = PROXIES.redirect_sk_lookup(ctx, key(family), 0).is_ok()
        // An IPv4 connection may belong to a dual-stack listener; the kernel refuses what does not.
        || PROXIES.redirect_sk_lookup(ctx, key(AF_INET6), 0).is_ok();
    tally(if chosen {
        Counter::Steered
    } else {
        Counter::NoListener
    });
}

/// The connection that a lookup is about.
#[inline(always)]
fn connection(ctx: &SkLookupContext, netns: u64, family: u32, port: u32) -> Connection {
    // SAFETY: the context is valid while the program runs. Reads that the compiler may not merge: the
    // verifier takes none at a computed offset.
    let (source4, source6, destination4, destination6, source_port) = unsafe {
        let lookup = ctx.lookup;
        (
            read_volatile(&raw const (*lookup).remote_ip4),
            read_volatile(&raw const (*lookup).remote_ip6),
            read_volatile(&raw const (*lookup).local_ip4),
            read_volatile(&raw const (*lookup).local_ip6),
            u16::from_be((*lookup).remote_port),
        )
    };
    let (source, destination) = if family == AF_INET {
        (Address::v4(source4), Address::v4(destination4))
    } else {
        (Address::v6(source6), Address::v6(destination6))
    };
    Connection {
        netns,
        source: Endpoint::new(source, source_port),
        destination: Endpoint::new(destination, port as u16),
    }
}
