//! What becomes of a segment to an unwrapping port: a SYN, a segment before the header, the header, or the
//! stream behind it.

use agent_common::{
    Claim, Connection, Counter, Evidence, Syn,
    trust::Statement,
    unwrap::{
        Habit, Handshake, Refusal, Versions,
        stream::{Completion, Known, Next, Segment, before_established, begins, completes},
    },
};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, BPF_TCP_LISTEN, BPF_TCP_NEW_SYN_RECV, BPF_TCP_TIME_WAIT},
    programs::TcContext,
};

use super::{
    craft::Crafted,
    fast_open, header,
    incoming::{Incoming, Reading},
    tlvs, translate,
};
use crate::{
    guard,
    kernel::{
        route::{self, Locality},
        socket::Socket,
        tcp::{ACK, SYN},
    },
    learn::trust,
    maps::{HANDOVERS, LENGTHS, LINGERING, Replaced as _, UNTRUSTED, UNWRAPPING},
    reveal,
    tell::count,
};

/// Length of a header of version 2 without TLVs.
const USUAL_V4: u32 = 28;
const USUAL_V6: u32 = 52;

/// What becomes of a segment. It fits into a register: verifiers before Linux 5.16 forget four bytes that a function leaves
/// in its caller's stack.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    /// It goes on to the server.
    Passes,
    /// The sender will send it again.
    Dropped,
    /// No honest sender sends it, and the server must not have it.
    Hidden,
    /// Its connection is refused.
    Refused(Refusal),
}

const _: () = assert!(size_of::<Outcome>() == size_of::<Refusal>());

impl Incoming {
    /// Says what becomes of the segment.
    #[inline(always)]
    pub(super) fn arrives(&self, ctx: &TcContext) -> Outcome {
        if self.reading == Reading::Nothing {
            return Outcome::Hidden;
        }
        if self.tcp.has(SYN) {
            if self.tcp.has(ACK) || !self.stays(ctx) {
                return Outcome::Passes;
            }
            if self.reading == Reading::Hidden {
                return Outcome::Hidden;
            }
            return match self.hear(ctx) {
                Some(speaker) => self.syn_arrives(ctx, speaker),
                None => Outcome::Dropped,
            };
        }
        let Connection {
            source,
            destination,
            ..
        } = self.connection;
        let Some(found) = Socket::between(ctx, self.is_v6, source, destination) else {
            return Outcome::Passes;
        };
        match found.state() {
            BPF_TCP_LISTEN | BPF_TCP_NEW_SYN_RECV => self.handshake_goes_on(ctx, &found),
            BPF_TCP_TIME_WAIT => {
                let delta = LINGERING.look_up(self.connection);
                self.stream_goes_on(ctx, delta.copied())
            }
            _ => self.stream_goes_on(ctx, translate::delta(&self.connection)),
        }
    }

    /// A SYN. Tells the server that the stream begins behind the header.
    #[inline(never)]
    fn syn_arrives(&self, ctx: &TcContext, speaker: &mut Claim) -> Outcome {
        // Looking first takes no lock, and there rarely is an entry.
        if LINGERING.get_ptr(self.connection).is_some() {
            let _ = LINGERING.remove(self.connection);
        }
        // A header on the SYN itself could not be taken off. The sender repeats the SYN without it.
        if self.payload != 0 || !fast_open::take_off(ctx, self) {
            return Outcome::Dropped;
        }
        let Some(handshake) = self.remember(ctx, speaker) else {
            // Whoever answers tells whether it is refused.
            let _ = UNTRUSTED.insert(self.opened_by(), 0, BPF_ANY.into());
            let _ = UNWRAPPING.remove(self.connection);
            return Outcome::Passes;
        };
        if handshake.is_untouched() {
            return Outcome::Passes;
        }
        if handshake.isn != self.tcp.sequence || handshake.progress == Handshake::READ {
            // It begins nothing. What it says of its sender is not said of the connection that is known, or no longer.
            self.add_to_sequence(ctx, handshake.shift.into());
            return Outcome::Passes;
        }
        if handshake.is_told != 0 || guard::is_guarded(self.connection.destination.port) {
            // The client is not known yet.
            speaker.is_pending = 1;
            let _ = HANDOVERS.insert(self.syn(handshake), &*speaker, BPF_NOEXIST.into());
        }
        self.add_to_sequence(ctx, handshake.shift.into());
        Outcome::Passes
    }

    /// A segment before the server has established the connection.
    #[inline(always)]
    fn handshake_goes_on(&self, ctx: &TcContext, found: &Socket) -> Outcome {
        match Next::unpacked(self.next(ctx, found)) {
            Next::Passes(delta) => self.stream_goes_on(ctx, (delta != 0).then_some(delta)),
            Next::Ends(delta) => {
                self.add_to_sequence(ctx, delta);
                translate::end(&self.connection);
                Outcome::Passes
            }
            Next::Dropped => Outcome::Dropped,
            Next::Hidden => Outcome::Hidden,
            // Once: with SYN cookies, nothing is known of it by the next segment.
            Next::Refused(Refusal::NoHeader)
                if self.handshake().is_none() && UNTRUSTED.remove(self.opened_by()).is_ok() =>
            {
                Outcome::Refused(Refusal::Untrusted)
            }
            Next::Refused(reason) => Outcome::Refused(reason),
            Next::Header => self.header_arrives(ctx, found),
        }
    }

    /// What is to be done with a segment before the server has established the connection, as [`Next::packed`].
    #[inline(never)]
    fn next(&self, ctx: &TcContext, found: &Socket) -> u64 {
        let place = Place {
            incoming: self,
            ctx,
            found,
        };
        before_established(self.handshake(), &self.segment(), &place).packed()
    }

    /// The first bytes of the stream, which must be the header.
    #[inline(never)]
    fn header_arrives(&self, ctx: &TcContext, found: &Socket) -> Outcome {
        // Looked up once more: as an argument it would take the caller's stack, too. It may have become another SYN's.
        let is_its = |known: &Handshake| self.tcp.sequence == known.isn.wrapping_add(1);
        let Some(handshake) = self.handshake().filter(is_its) else {
            return Outcome::Dropped;
        };
        if handshake.is_told != 0 {
            self.use_tag(&handshake);
        }
        let mut claim = Claim::default();
        if let Some(reason) = Refusal::from_u32(self.speaker(&handshake, &mut claim)) {
            return Outcome::Refused(reason);
        }
        let length = match header::read(ctx, self, &mut claim) {
            Ok(length) => length,
            Err(reason) => return Outcome::Refused(reason),
        };
        if claim.is_pending == 0 {
            claim.rule = handshake.rule;
            claim.evidence = Evidence::Proxy as u8;
            claim.is_signed = 0;
        }
        claim.is_pending = 0;
        if self.versions.has(Versions::EXPRESSED) && reveal::is_inexpressible(&claim, found) {
            let (source, destination) = (&self.connection.source, &self.connection.destination);
            reveal::refuse(&claim, source, destination, Counter::UnwrapInexpressible);
            return Outcome::Refused(Refusal::Inexpressible);
        }
        if !self.is_allowed(&claim, handshake) {
            return Outcome::Refused(Refusal::Denied);
        }
        let Completion { delta, instead } =
            completes(&handshake, &self.segment(), length, found.is_listener());
        if delta == 0 {
            translate::end(&self.connection);
        } else {
            if !translate::begin(&self.connection, delta) {
                return Outcome::Refused(Refusal::Full);
            }
            count(Counter::UnwrapTranslated);
        }
        if claim.header != 0 && !tlvs::report() {
            claim.header = 0;
        }
        self.learn(&claim, length, handshake);
        match instead {
            Some((sequence, flags)) => Crafted {
                sequence,
                acknowledgment: self.tcp.acknowledgment,
                flags,
                to_sender: false,
                options: true,
            }
            .overwrite(ctx, self),
            None => self.add_to_sequence(ctx, delta),
        }
        Outcome::Passes
    }

    /// Notes what the header says, for `accept()` and for the sender's next connection. Like others here it
    /// is not inlined, because whatever is inlined shares one stack frame.
    #[inline(never)]
    fn learn(&self, claim: &Claim, length: u32, handshake: Handshake) {
        let flags = BPF_ANY.into();
        if length != u32::from(handshake.shift) {
            let _ = LENGTHS.insert(self.habit(), length, flags);
        }
        let _ = HANDOVERS.insert(self.syn(handshake), claim, flags);
        let read = Handshake {
            progress: Handshake::READ,
            ..handshake
        };
        let _ = UNWRAPPING.insert(self.connection, read, flags);
    }

    /// Whether the policies admit the client. Counts it if they do, and refuses it otherwise.
    #[inline(never)]
    fn is_allowed(&self, claim: &Claim, handshake: Handshake) -> bool {
        let Connection {
            source,
            destination,
            ..
        } = self.connection;
        if !guard::is_guarded(destination.port) {
            return true;
        }
        if guard::allows(&claim.client.address, destination.port) {
            let noted = HANDOVERS.look_up(self.syn(handshake));
            // Otherwise this is a repeated header.
            if noted.is_none_or(|noted| !noted.names_client()) {
                guard::admitted(destination.port);
            }
            return true;
        }
        guard::refused(claim, &source, &destination);
        false
    }

    /// A segment of an established connection, changed only if the header's length was not the expected one.
    #[inline(always)]
    fn stream_goes_on(&self, ctx: &TcContext, delta: Option<i32>) -> Outcome {
        if let Some(delta) = delta {
            self.add_to_sequence(ctx, delta);
        }
        Outcome::Passes
    }

    #[inline(always)]
    fn add_to_sequence(&self, ctx: &TcContext, delta: i32) {
        translate::sequence(ctx, self.offset, self.tcp.sequence, delta);
    }

    /// Notes the handshake that begins, unless none does: the one that is known goes on. `None`: no rule believes a header of
    /// its sender. An entry is replaced and not changed in place, because an entry of an LRU map may have become another
    /// connection's in the meantime.
    #[inline(always)]
    fn remember(&self, ctx: &TcContext, speaker: &Claim) -> Option<Handshake> {
        // It is believed already if its header was read: by what said so, which may be believed once only.
        let is_read =
            |known: &Handshake| known.progress == Handshake::READ && known.isn == self.tcp.sequence;
        if let Some(known) = self.handshake().filter(is_read) {
            return Some(known);
        }
        let (address, is_told) = if speaker.names_client() {
            (speaker.client.address, 1)
        } else {
            (self.connection.source.address, 0)
        };
        let port = self.connection.destination.port;
        let trusted = trust::sender(address)?;
        let rule = trust::rule_for(&trusted, Statement::Proxy, port)?;
        let handshake = Handshake {
            isn: self.tcp.sequence,
            rule,
            shift: if self.versions.has(Versions::ENDING) {
                0
            } else {
                self.usual_length() as u16
            },
            is_told,
            progress: Handshake::BEGUN,
        };
        // Usually there is no entry yet.
        let is_new = UNWRAPPING.insert(self.connection, handshake, BPF_NOEXIST.into());
        if is_new.is_ok() {
            return Some(handshake);
        }
        let known = self.handshake();
        if !begins(known, handshake.isn, || self.is_half_open(ctx)) {
            return Some(known.unwrap_or(handshake));
        }
        let _ = UNWRAPPING.insert(self.connection, handshake, BPF_ANY.into());
        Some(handshake)
    }

    /// Whether the server waits for the end of a handshake.
    #[inline(never)]
    fn is_half_open(&self, ctx: &TcContext) -> bool {
        let Connection {
            source,
            destination,
            ..
        } = self.connection;
        let found = Socket::between(ctx, self.is_v6, source, destination);
        found.is_some_and(|found| found.state() == BPF_TCP_NEW_SYN_RECV)
    }

    /// Whether the packet goes on to another host. It is not for a server here, even if that listens on all addresses.
    #[inline(never)]
    fn is_forwarded(&self, ctx: &TcContext) -> bool {
        let (from, to) = (&self.connection.source, &self.connection.destination);
        route::locality(ctx, from.address, to.address) == Locality::Elsewhere
    }

    /// The SYN of a segment before the header, as its sender made it.
    #[inline(always)]
    fn opened_by(&self) -> Syn {
        let is_syn = self.tcp.has(SYN);
        Syn {
            source: self.connection.source,
            destination: self.connection.destination,
            isn: self.tcp.sequence.wrapping_sub(u32::from(!is_syn)),
        }
    }

    #[inline(always)]
    fn segment(&self) -> Segment {
        Segment {
            sequence: self.tcp.sequence,
            flags: self.tcp.flags,
            payload: self.payload,
            is_whole: self.reading == Reading::Whole,
        }
    }

    #[inline(always)]
    fn handshake(&self) -> Option<Handshake> {
        UNWRAPPING.look_up(self.connection).copied()
    }

    /// The length that the header is expected to have.
    #[inline(always)]
    fn usual_length(&self) -> u32 {
        match LENGTHS.look_up(self.habit()) {
            Some(length) => *length,
            None if self.is_v6 => USUAL_V6,
            None => USUAL_V4,
        }
    }

    #[inline(always)]
    fn habit(&self) -> Habit {
        let netns = self.connection.netns;
        Habit {
            netns: [netns as u32, (netns >> 32) as u32],
            sender: self.connection.source.address,
            port: self.connection.destination.port,
            padding: 0,
        }
    }
}

/// A segment beside the socket that it would go to.
struct Place<'a> {
    incoming: &'a Incoming,
    ctx: &'a TcContext,
    found: &'a Socket,
}

impl Known for Place<'_> {
    #[inline(always)]
    fn is_local(&self) -> bool {
        if self.incoming.reading == Reading::Hidden {
            self.incoming.stays(self.ctx)
        } else {
            !self.incoming.is_forwarded(self.ctx)
        }
    }

    #[inline(always)]
    fn is_listener(&self) -> bool {
        self.found.is_listener()
    }

    /// Like others here it is not inlined, because whatever is inlined shares one stack frame.
    #[inline(never)]
    fn sent_cookie(&self, sequence: u32) -> bool {
        let Incoming { is_v6, offset, .. } = *self.incoming;
        self.found.sent_cookie(self.ctx, is_v6, offset, sequence)
    }

    #[inline(always)]
    fn delta(&self) -> Option<i32> {
        translate::delta(&self.incoming.connection)
    }
}
