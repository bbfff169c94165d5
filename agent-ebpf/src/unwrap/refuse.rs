//! Resets a connection at both ends, before either application has a byte of it.

use agent_common::{
    Closed, Counter, Origin,
    unwrap::{Handshake, Refusal},
};
use aya_ebpf::{
    bindings::tcx_action_base::{TCX_DROP, TCX_NEXT},
    programs::TcContext,
};

use super::{craft::Crafted, incoming::Incoming};
use crate::{
    kernel::{
        clock::boottime,
        tcp::{ACK, RST, SYN},
    },
    maps::UNWRAPPING,
    tell::{self, count},
};

/// Why a connection is refused, and the sequence number that the server expects if it knows of the
/// connection.
pub(super) struct Refused {
    reason: Refusal,
    first: Option<u32>,
}

impl Refused {
    #[inline(always)]
    pub(super) fn new(reason: Refusal, handshake: Option<&Handshake>) -> Self {
        Self {
            reason,
            first: handshake.map(Handshake::first),
        }
    }

    /// Counts and logs the refusal, resets both ends, and returns the action for the packet.
    #[inline(never)]
    pub(super) fn reset(&self, ctx: &TcContext, incoming: &Incoming) -> i32 {
        let counter = match self.reason {
            Refusal::Untrusted => Some(Counter::UnwrapUntrusted),
            Refusal::NoHeader => Some(Counter::UnwrapNoHeader),
            Refusal::Invalid => Some(Counter::UnwrapInvalid),
            Refusal::Split => Some(Counter::UnwrapSplit),
            Refusal::Full => Some(Counter::UnwrapFull),
            // `guard` has already counted and logged it.
            Refusal::Denied => None,
        };
        if let Some(counter) = counter {
            count(counter);
            self.log(incoming);
        }
        let _ = UNWRAPPING.remove(incoming.connection);
        // RFC 9293, 3.10.7.1: the reset's sequence number is what the other end expects.
        let (sequence, flags) = if incoming.tcp.has(SYN) {
            (0, RST | ACK)
        } else {
            (incoming.tcp.acknowledgment, RST)
        };
        let reset = Crafted {
            sequence,
            acknowledgment: incoming.tcp.sequence.wrapping_add(1),
            flags,
            to_sender: true,
            options: false,
        };
        reset.send(ctx, incoming);
        let Some(first) = self.first else {
            return TCX_DROP;
        };
        let reset = Crafted {
            sequence: first,
            acknowledgment: 0,
            flags: RST,
            to_sender: false,
            options: false,
        };
        reset.overwrite(ctx, incoming);
        TCX_NEXT
    }

    #[inline(never)]
    fn log(&self, incoming: &Incoming) {
        let connection = incoming.connection;
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
            refused: self.reason as u32,
            ..Closed::default()
        });
    }
}
