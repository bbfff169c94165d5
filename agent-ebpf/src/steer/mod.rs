//! steer: brings a connection to a local proxy without NAT.
//!
//! It decides about the first segment of a connection only. Whatever belongs to a socket goes to that socket,
//! and whatever the proxy cannot take passes as if truepeer were absent.

mod affinity;
pub(crate) mod listeners;
pub(crate) mod lookup;
pub(crate) mod outgoing;
pub(crate) mod port;

use agent_common::{Address, Counter, Endpoint, Namespace, Range};
use aya_ebpf::{bindings::BPF_TCP_TIME_WAIT, programs::TcContext};
use aya_log_ebpf::debug;

use crate::{
    kernel::{
        context::Skb as _,
        packet::{self, NoSegment, Segment},
        route::is_local,
        socket::Socket,
        uapi::{AF_INET, AF_INET6},
    },
    maps::{NAMESPACES, NETNS, Replaced as _},
    tell::count,
};

/// 127.0.0.1 and `::1`.
const LOOPBACK_V4: Address = Address::v4(0x7f00_0001_u32.to_be());
const LOOPBACK_V6: Address = Address::v6([0, 0, 0, 1_u32.to_be()]);

/// Steers one packet at tc ingress.
#[inline(always)]
pub(crate) fn ingress(ctx: &TcContext) {
    let segment = match packet::arriving(ctx) {
        Ok(segment) => segment,
        // A frame that cannot be read is left to the kernel, like one that concerns no steer.
        Err(NoSegment::Other | NoSegment::Unreadable) => return,
    };
    let Some(namespace) = NAMESPACES.look_up(NETNS.load()) else {
        return;
    };
    let (ifindex, port) = (ctx.ifindex(), segment.destination.port);
    let Some(range) = namespace.find(|range| range.concerns(ifindex, port)) else {
        return;
    };
    let found = Socket::between(ctx, segment.is_v6, segment.source, segment.destination);
    let mut reopens = false;
    if let Some(sk) = found {
        reopens = segment.tcp.opens() && sk.state() == BPF_TCP_TIME_WAIT;
        if !reopens && !sk.is_listener() {
            if sk.assign(ctx) {
                set_mark(ctx, namespace, &range);
            }
            return;
        }
    }
    if range.flags & Range::ANSWERS == 0 {
        bring_to_listener(ctx, &segment, namespace, &range, reopens);
    }
}

/// Brings the first segment of a connection, or the ACK of a SYN cookie, to the proxy's listener.
#[inline(always)]
fn bring_to_listener(
    ctx: &TcContext,
    segment: &Segment,
    namespace: &Namespace,
    range: &Range,
    reopens: bool,
) {
    let opens = segment.tcp.opens();
    if !opens && !segment.tcp.acknowledges() {
        return;
    }
    let family = if segment.is_v6 { AF_INET6 } else { AF_INET };
    let client = segment.source.address;
    let to = affinity::listener_port(range, NETNS.load(), family, &client);
    if namespace.draining != 0 && opens {
        count(Counter::Drained);
        return;
    }
    // The kernel drops a packet that has an assigned socket if it would forward it.
    if range.is_sidecar() && !is_local(ctx, client, segment.destination.address) {
        return;
    }
    let Some(listener) = find_listener(ctx, segment, to) else {
        if opens {
            count(Counter::NoListener);
            debug!(
                ctx,
                "no listener on port {}: a connection to port {} passes",
                to,
                segment.destination.port
            );
        }
        return;
    };
    if !opens && !listener.sent_cookie(ctx, segment.is_v6, segment.offset, segment.tcp.sequence) {
        return;
    }
    // If the client reuses the port of a connection in TIME_WAIT, only the kernel can end the old one. It
    // does, and then asks the `sk_lookup` program for the listener. So it does with a connection to this host's own
    // address that cannot be assigned: before Linux 6.6, one to a listener that shares its port.
    if reopens || listener.assign(ctx) || range.is_sidecar() {
        set_mark(ctx, namespace, range);
        if opens {
            count(Counter::Steered);
        }
    }
}

/// Marks a gateway's packet, so that the routing rules of the interface deliver it here.
#[inline(always)]
fn set_mark(ctx: &TcContext, namespace: &Namespace, range: &Range) {
    if !range.is_sidecar() {
        ctx.set_mark(namespace.gateway.apply(ctx.mark()));
    }
}

/// The proxy's listener on port `to`: one bound to any address or to the packet's destination, or else one on
/// loopback.
#[inline(always)]
fn find_listener(ctx: &TcContext, segment: &Segment, to: u16) -> Option<Socket> {
    let listener = |source: Endpoint, address: Address| {
        let sk = Socket::between(ctx, segment.is_v6, source, Endpoint::new(address, to))?;
        if sk.is_listener() { Some(sk) } else { None }
    };
    let (source, destination) = (segment.source, segment.destination.address);
    if let Some(sk) = listener(source, destination) {
        return Some(sk);
    }
    // Nothing was found, or the client's connection to the proxy's own port from the same source port. A
    // lookup with source port 0 finds listeners only.
    let source = Endpoint::new(source.address, 0);
    if let Some(sk) = listener(source, destination) {
        return Some(sk);
    }
    let loopback = if segment.is_v6 {
        LOOPBACK_V6
    } else {
        LOOPBACK_V4
    };
    listener(source, loopback)
}
