//! Whether a connection to an unwrapping port stays here: whether a socket of this network namespace takes it.
//!
//! A SYN does not tell. Where somebody listens, netfilter may send the connection elsewhere all the same: to a container or
//! to another port (DNAT, REDIRECT), so that the stream that begins behind a header would lose its first bytes. The SYN-ACK
//! tells, and what it tells is remembered for the sender's next SYN.

use agent_common::{
    Address, Connection, Counter, Endpoint, Syn,
    unwrap::{Handshake, Refusal, Whereabouts},
};
use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_EXIST, BPF_TCP_LISTEN,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    programs::TcContext,
};

use super::{
    incoming::{Incoming, connection},
    refuse, translate, turn,
};
use crate::{
    kernel::{
        context::Skb as _,
        packet::Segment,
        route::{self, Locality},
        socket::Socket,
        syn_cookie,
        tcp::SYN,
    },
    maps::{Replaced as _, UNTRUSTED, UNWRAPPING, WHEREABOUTS},
    tell::count,
};

impl Incoming {
    /// Whether a socket here takes the connection that a SYN opens, as far as is known.
    #[inline(never)]
    pub(super) fn stays(&self, ctx: &TcContext) -> bool {
        let Connection {
            source,
            destination,
            ..
        } = self.connection;
        let stays = match remembered(&self.connection) {
            Some(whereabouts) => whereabouts == Whereabouts::Here,
            None if !route::is_local(ctx, source.address, destination.address) => return false,
            None => Socket::between(ctx, self.is_v6, source, destination).is_some(),
        };
        if !stays && self.tcp.has(SYN) {
            count(Counter::UnwrapElsewhere);
        }
        stays
    }
}

/// What the last SYN-ACK told of connections from this sender to this server.
#[inline(never)]
fn remembered(connection: &Connection) -> Option<Whereabouts> {
    let whereabouts = WHEREABOUTS.look_up(of_sender(connection))?;
    Some(if *whereabouts == Whereabouts::Here as u32 {
        Whereabouts::Here
    } else {
        Whereabouts::Elsewhere
    })
}

#[inline(never)]
fn remember(connection: &Connection, whereabouts: Whereabouts) {
    let _ = WHEREABOUTS.insert(of_sender(connection), whereabouts as u32, BPF_ANY.into());
}

/// What connections of this sender to this server have in common.
#[inline(always)]
fn of_sender(connection: &Connection) -> Connection {
    Connection {
        source: Endpoint::new(connection.source.address, 0),
        ..*connection
    }
}

/// Handles a SYN-ACK of an unwrapping port that leaves, and returns the action for it. Where its SYN was taken for what it is
/// not, whoever answered is reset, and the sender's next SYN, which comes after a second, is taken for what it is.
#[inline(never)]
pub(super) fn answers(ctx: &TcContext, segment: &Segment) -> i32 {
    let tcp = &segment.tcp;
    let connection = connection(segment.destination, segment.source);
    let handshake = UNWRAPPING.look_up(connection).copied();
    let who = who_answers(ctx, segment);
    if let Some(handshake) = handshake {
        if tcp.acknowledgment != handshake.first() {
            return TCX_NEXT;
        }
        if who != Some(Whereabouts::Elsewhere) {
            if handshake.progress == Handshake::BEGUN {
                let answered = Handshake {
                    progress: Handshake::ANSWERED,
                    ..handshake
                };
                let _ = UNWRAPPING.insert(connection, answered, BPF_EXIST.into());
            }
            let shift = handshake.shift.into();
            translate::acknowledgment(ctx, segment.offset, tcp.acknowledgment, shift);
            return TCX_NEXT;
        }
        remember(&connection, Whereabouts::Elsewhere);
        let _ = UNWRAPPING.remove(connection);
        turn::reset_server(ctx, segment);
        return TCX_DROP;
    }
    let is_untrusted = is_untrusted(&connection, tcp.acknowledgment);
    if who != Some(Whereabouts::Here) {
        if is_untrusted && who == Some(Whereabouts::Elsewhere) {
            remember(&connection, Whereabouts::Elsewhere);
        }
        return TCX_NEXT;
    }
    if is_untrusted {
        refuse::tell(&connection, Refusal::Untrusted);
        return turn::reset_both(ctx, segment);
    }
    let (from, to) = (&connection.source.address, &connection.destination.address);
    let was_foreign = match remembered(&connection) {
        Some(whereabouts) => whereabouts == Whereabouts::Elsewhere,
        None => is_unknown(ctx, from, to),
    };
    if !was_foreign {
        return TCX_NEXT;
    }
    remember(&connection, Whereabouts::Here);
    turn::reset_server(ctx, segment);
    TCX_DROP
}

/// Whether nobody believes a header of whoever sent the SYN that is acknowledged.
#[inline(never)]
fn is_untrusted(connection: &Connection, acknowledgment: u32) -> bool {
    let syn = Syn {
        source: connection.source,
        destination: connection.destination,
        isn: acknowledgment.wrapping_sub(1),
    };
    UNTRUSTED.look_up(syn).is_some()
}

#[inline(never)]
fn is_unknown(ctx: &TcContext, from: &Address, to: &Address) -> bool {
    route::locality(ctx, *from, *to) == Locality::Unknown
}

/// Where the socket is that answers a SYN; `None`: that does not show.
#[inline(never)]
fn who_answers(ctx: &TcContext, segment: &Segment) -> Option<Whereabouts> {
    let Segment {
        source,
        destination,
        is_v6,
        ..
    } = *segment;
    // Between the very ends of the connection.
    let found = Socket::between(ctx, is_v6, destination, source);
    if found.is_some_and(|found| found.state() != BPF_TCP_LISTEN) {
        return Some(Whereabouts::Here);
    }
    if ctx.came_by() != 0 {
        return Some(Whereabouts::Elsewhere);
    }
    match ctx.socket_end(is_v6) {
        Some(sender) if sender != source => Some(Whereabouts::Elsewhere),
        // A socket that was not found is just being established.
        Some(_) => None,
        // With SYN cookies, the answer has none, and is made of the ends that the listener saw.
        None => syn_cookie::is_between_its_ends(segment).map(|is_it| {
            if is_it {
                Whereabouts::Here
            } else {
                Whereabouts::Elsewhere
            }
        }),
    }
}
