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
    maps::{Replaced as _, UNWRAPPING},
    tell::{self, count},
};

impl Incoming {
    /// Counts and logs the refusal, resets both ends, and returns the action for the packet.
    #[inline(never)]
    pub(super) fn reset(&self, ctx: &TcContext, reason: Refusal) -> i32 {
        let counter = match reason {
            Refusal::Untrusted => Some(Counter::UnwrapUntrusted),
            Refusal::NoHeader => Some(Counter::UnwrapNoHeader),
            Refusal::Invalid => Some(Counter::UnwrapInvalid),
            Refusal::Split => Some(Counter::UnwrapSplit),
            Refusal::Full => Some(Counter::UnwrapFull),
            Refusal::Late => Some(Counter::UnwrapLate),
            // `guard` or `reveal` has already counted and logged it.
            Refusal::Denied | Refusal::Inexpressible => None,
        };
        if let Some(counter) = counter {
            count(counter);
            self.log(reason);
        }
        let first = self.server_expects();
        let _ = UNWRAPPING.remove(self.connection);
        // RFC 9293, 3.10.7.1: the reset's sequence number is what the other end expects.
        let (sequence, flags) = if self.tcp.has(SYN) {
            (0, RST | ACK)
        } else {
            (self.tcp.acknowledgment, RST)
        };
        let reset = Crafted {
            sequence,
            acknowledgment: self.tcp.sequence.wrapping_add(1),
            flags,
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

    /// The sequence number that the server expects, if it knows of the connection.
    #[inline(always)]
    fn server_expects(&self) -> Option<u32> {
        if self.tcp.has(SYN) {
            return None;
        }
        UNWRAPPING.look_up(self.connection).map(Handshake::first)
    }

    #[inline(never)]
    fn log(&self, reason: Refusal) {
        let connection = self.connection;
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
}
