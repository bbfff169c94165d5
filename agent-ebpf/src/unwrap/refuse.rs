//! Resets a connection at both ends, before either application has a byte of it.

use agent_common::{
    Closed, Connection, Counter, Origin,
    unwrap::{Handshake, Refusal},
};
use aya_ebpf::{
    bindings::tcx_action_base::{TCX_DROP, TCX_NEXT},
    programs::TcContext,
};

use super::{craft::Crafted, incoming::Incoming};
use crate::{
    kernel::{clock::boottime, tcp::RST},
    maps::{Replaced as _, UNWRAPPING},
    tell::{self, count},
};

impl Incoming {
    /// Counts and logs the refusal, resets both ends, and returns the action for the packet.
    #[inline(never)]
    pub(super) fn reset(&self, ctx: &TcContext, reason: Refusal) -> i32 {
        tell(&self.connection, reason);
        // What the server expects, if it knows of the connection.
        let first = UNWRAPPING.look_up(self.connection).map(Handshake::first);
        let _ = UNWRAPPING.remove(self.connection);
        // RFC 9293, 3.10.7.1: the reset's sequence number is what the other end expects.
        let reset = Crafted {
            sequence: self.tcp.acknowledgment,
            acknowledgment: 0,
            flags: RST,
            to_sender: true,
            options: false,
        };
        reset.send(ctx, self);
        let Some(first) = first else {
            return TCX_DROP;
        };
        let reset = Crafted {
            sequence: first,
            acknowledgment: 0,
            flags: RST,
            to_sender: false,
            options: false,
        };
        reset.overwrite(ctx, self);
        TCX_NEXT
    }
}

/// Counts and logs that a connection is refused.
#[inline(never)]
pub(super) fn tell(connection: &Connection, reason: Refusal) {
    let counter = match reason {
        Refusal::Untrusted => Counter::UnwrapUntrusted,
        Refusal::NoHeader => Counter::UnwrapNoHeader,
        Refusal::Invalid => Counter::UnwrapInvalid,
        Refusal::Split => Counter::UnwrapSplit,
        Refusal::Full => Counter::UnwrapFull,
        Refusal::Late => Counter::UnwrapLate,
        // `guard` or `reveal` has already counted and logged it.
        Refusal::Denied | Refusal::Inexpressible => return,
    };
    count(counter);
    let now = boottime();
    tell::refused(|| Closed {
        origin: Origin {
            since: now,
            netns: connection.netns,
            client: connection.source,
            original_dst: connection.destination,
            local: connection.destination,
            remote: connection.source,
            ..Origin::default()
        },
        closed: now,
        refused: reason as u32,
        ..Closed::default()
    });
}
