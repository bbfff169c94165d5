//! What becomes of a segment to an unwrapping port, and of what the server answers: decisions without effects.
//!
//! The data path asks here for every segment and does what it is told; the model that is checked exhaustively
//! (`tests/src/model`) asks here as well, so that it cannot differ from the programs.

use super::{Handshake, Refusal};

/// Flags of a TCP header (RFC 9293, 3.1).
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const ACK: u8 = 0x10;

/// What matters of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its sequence number, host byte order.
    pub sequence: u32,
    /// [`FIN`] and others.
    pub flags: u8,
    /// Bytes behind the TCP header.
    pub payload: usize,
    /// Whether it was read as a whole. Else nothing but the numbers of its TCP header may be changed.
    pub is_whole: bool,
}

impl Segment {
    /// Whether it has this flag.
    #[inline(always)]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What kernel and maps know of a segment's connection. Each question costs something, and is asked only where the answer
/// matters.
pub trait Known {
    /// Whether the packet stays on this host.
    fn is_local(&self) -> bool;
    /// Whether the server knows of no connection, so that the segment would go to the listener.
    fn is_listener(&self) -> bool;
    /// Whether the segment, if it had this sequence number, would be the ACK of a SYN cookie that the listener sent.
    fn sent_cookie(&self, sequence: u32) -> bool;
    /// What `TRANSLATED` says: what to add to the sender's sequence numbers.
    fn delta(&self) -> Option<i32>;
}

/// What is to be done with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on to the server, with this added to its sequence number.
    Passes(i32),
    /// Likewise, and nothing is translated any more: no socket will end that, as none was made. If the server does not take
    /// the reset for the sender's, it reads the repeated header again.
    Ends(i32),
    /// The sender will send it again.
    Dropped,
    /// No honest sender sends it, and the server must not have it.
    Hidden,
    /// Its connection is refused.
    Refused(Refusal),
    /// It begins with the first byte of the stream, where the header must be.
    Header,
}

impl Next {
    /// All of it in one number, which is what a BPF function with a stack of its own can return: what it is in the low half,
    /// with what, in the high one.
    #[inline(always)]
    pub const fn packed(self) -> u64 {
        let (what, with) = match self {
            Self::Passes(delta) => (0, delta as u32),
            Self::Ends(delta) => (1, delta as u32),
            Self::Dropped => (2, 0),
            Self::Hidden => (3, 0),
            Self::Refused(reason) => (4, reason as u32),
            Self::Header => (5, 0),
        };
        what | (with as u64) << 32
    }

    /// What was [`packed`](Self::packed).
    #[inline(always)]
    pub fn unpacked(packed: u64) -> Self {
        let with = (packed >> 32) as u32;
        match packed as u32 {
            0 => Self::Passes(with as i32),
            1 => Self::Ends(with as i32),
            3 => Self::Hidden,
            4 => Refusal::from_u32(with).map_or(Self::Dropped, Self::Refused),
            5 => Self::Header,
            _ => Self::Dropped,
        }
    }
}

/// A SYN to a connection whose handshake may be known. `true`: it begins another handshake, which takes the place of the known
/// one. While the server has a half-open connection, a SYN with another number cannot begin one: it is an old duplicate, or
/// the server answers so that the sender resets what is half open. Were the handshake replaced, what comes of the half-open
/// connection would be judged by the wrong numbers.
#[inline(always)]
pub fn begins(known: Option<Handshake>, isn: u32, is_half_open: impl FnOnce() -> bool) -> bool {
    match known {
        Some(known) => known.isn != isn && !is_half_open(),
        None => true,
    }
}

/// A segment without SYN while the server has not established its connection.
#[inline(always)]
pub fn before_established(
    handshake: Option<Handshake>,
    segment: &Segment,
    known: &impl Known,
) -> Next {
    if !segment.is_whole {
        return if known.is_local() {
            Next::Hidden
        } else {
            Next::Passes(0)
        };
    }
    let is_first = |handshake: &Handshake| segment.sequence == handshake.isn.wrapping_add(1);
    let is_given_up = handshake.is_some_and(|handshake| is_given_up(&handshake, known));
    if is_given_up && segment.payload != 0 && handshake.is_some_and(|known| is_first(&known)) {
        return Next::Refused(Refusal::Late);
    }
    let Some(handshake) = handshake.filter(|_| !is_given_up) else {
        // It was evicted, given up, or never begun. Without a header nothing may be established; the listener answers the
        // rest by a reset.
        let completes = !known.is_listener() || known.sent_cookie(segment.sequence);
        return if completes && !segment.has(RST) && known.is_local() {
            Next::Refused(Refusal::NoHeader)
        } else {
            Next::Passes(0)
        };
    };
    // The SYN was noted again after the handshake had been evicted, perhaps with another length. Nobody but the server
    // knows which number it expects, and it has not said.
    let is_unknown = !known.is_listener() && handshake.progress < Handshake::ANSWERED;
    if handshake.is_untouched() {
        return if is_unknown && !segment.has(RST) {
            Next::Refused(Refusal::Full)
        } else {
            Next::Passes(0)
        };
    }
    if segment.has(RST) {
        return Next::Ends(if is_first(&handshake) {
            handshake.shift.into()
        } else {
            known.delta().unwrap_or(0)
        });
    }
    // The server may have the header already and wait for room in its queue. Then the header comes again
    // as well.
    if !is_first(&handshake) {
        return Next::Dropped;
    }
    if segment.payload != 0 {
        return if is_unknown {
            Next::Refused(Refusal::Full)
        } else {
            Next::Header
        };
    }
    if segment.has(FIN) {
        return Next::Refused(Refusal::NoHeader);
    }
    // This is the handshake's ACK, which must not complete it.
    Next::Dropped
}

/// Whether the server has given the handshake up: the listener does not know of it, and sent no SYN cookie.
#[inline(always)]
fn is_given_up(handshake: &Handshake, known: &impl Known) -> bool {
    !handshake.is_untouched()
        && known.is_listener()
        && handshake.progress < Handshake::READ
        && !known.sent_cookie(handshake.first())
}

/// How a header that was read completes the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What to add to the sender's sequence numbers from now on: how much longer the header was expected to be than it is.
    pub delta: i32,
    /// Sequence number and flags of a segment without payload that takes this one's place; `None`: the segment itself goes
    /// on, with `delta` added to its number, and the server trims the header off.
    pub instead: Option<(u32, u8)>,
}

/// The header at the beginning of `segment` has `length` bytes.
#[inline(always)]
pub fn completes(
    handshake: &Handshake,
    segment: &Segment,
    length: u32,
    is_listener: bool,
) -> Completion {
    let delta = i32::from(handshake.shift) - length as i32;
    let is_alone = segment.payload == length as usize;
    // While the kernel uses SYN cookies it has no sequence number to trim by. The sender repeats what is
    // cut off here.
    if !is_alone && !is_listener {
        return Completion {
            delta,
            instead: None,
        };
    }
    let fin = if is_alone { segment.flags & FIN } else { 0 };
    // The kernel ignores an ACK that ends where the stream begins if the server waits for payload
    // (TCP_DEFER_ACCEPT, in `tcp_check_req()`). One byte on is within the window, too.
    let ahead = fin == 0 && !is_listener;
    Completion {
        delta,
        instead: Some((handshake.first().wrapping_add(ahead as u32), ACK | fin)),
    }
}

/// Whether a segment of the server acknowledges the SYN alone: then the handshake's `shift` is to be subtracted from its
/// acknowledgment number, and nothing else. SYN-ACKs do, resets may, and so does whatever a half-open connection answers,
/// even if the header was read: it comes again. `is_connected`: the segment is sent by the socket of an established
/// connection.
#[inline(always)]
pub fn acknowledges_syn(
    handshake: &Handshake,
    flags: u8,
    acknowledgment: u32,
    is_connected: bool,
) -> bool {
    let may_be = flags & (SYN | RST) != 0 || !is_connected;
    may_be && acknowledgment == handshake.first()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Server {
        is_listener: bool,
        cookie: Option<u32>,
    }

    impl Known for Server {
        fn is_local(&self) -> bool {
            true
        }

        fn is_listener(&self) -> bool {
            self.is_listener
        }

        fn sent_cookie(&self, sequence: u32) -> bool {
            self.cookie == Some(sequence)
        }

        fn delta(&self) -> Option<i32> {
            None
        }
    }

    const HALF_OPEN: Server = Server {
        is_listener: false,
        cookie: None,
    };
    const HEADER: Segment = Segment {
        sequence: 1001,
        flags: ACK,
        payload: 40,
        is_whole: true,
    };

    fn handshake(progress: u8) -> Handshake {
        Handshake {
            isn: 1000,
            shift: 28,
            progress,
            ..Handshake::default()
        }
    }

    #[test]
    fn a_header_is_read_only_if_the_server_expects_what_is_noted() {
        let next = |progress, server: &Server| {
            before_established(Some(handshake(progress)), &HEADER, server)
        };
        assert_eq!(
            next(Handshake::BEGUN, &HALF_OPEN),
            Next::Refused(Refusal::Full)
        );
        assert_eq!(next(Handshake::ANSWERED, &HALF_OPEN), Next::Header);
        let listener = |cookie| Server {
            is_listener: true,
            cookie,
        };
        assert_eq!(
            next(Handshake::ANSWERED, &listener(None)),
            Next::Refused(Refusal::Late)
        );
        assert_eq!(next(Handshake::BEGUN, &listener(Some(1029))), Next::Header);
        assert_eq!(
            next(Handshake::BEGUN, &listener(Some(1001))),
            Next::Refused(Refusal::Late)
        );
        assert_eq!(next(Handshake::READ, &listener(None)), Next::Header);
    }

    #[test]
    fn a_connection_to_a_port_that_is_given_up_passes() {
        let next = |progress| {
            let untouched = Handshake {
                shift: 0,
                ..handshake(progress)
            };
            before_established(Some(untouched), &HEADER, &HALF_OPEN)
        };
        assert_eq!(next(Handshake::ANSWERED), Next::Passes(0));
        // The half-open connection may be of a SYN that was touched.
        assert_eq!(next(Handshake::BEGUN), Next::Refused(Refusal::Full));
        assert_eq!(
            before_established(None, &HEADER, &HALF_OPEN),
            Next::Refused(Refusal::NoHeader)
        );
    }

    #[test]
    fn another_syn_begins_nothing_while_the_server_has_a_half_open_connection() {
        let known = Some(handshake(Handshake::ANSWERED));
        assert!(!begins(known, 1000, || unreachable!()));
        assert!(!begins(known, 2000, || true));
        assert!(begins(known, 2000, || false));
        assert!(begins(None, 2000, || unreachable!()));
    }

    #[test]
    fn a_half_open_connection_acknowledges_no_header() {
        let known = handshake(Handshake::READ);
        assert!(acknowledges_syn(&known, ACK, 1029, false));
        assert!(!acknowledges_syn(&known, ACK, 1029, true));
        assert!(acknowledges_syn(&known, ACK | RST, 1029, true));
        assert!(!acknowledges_syn(&known, SYN | ACK, 1030, false));
    }

    #[test]
    fn what_is_packed_is_unpacked_as_it_was() {
        let refused = Refusal::ALL.map(Next::Refused);
        let others = [
            Next::Passes(0),
            Next::Passes(-24),
            Next::Ends(28),
            Next::Header,
        ];
        let more = [Next::Dropped, Next::Hidden];
        for next in refused.into_iter().chain(others).chain(more) {
            assert_eq!(Next::unpacked(next.packed()), next);
        }
    }

    #[test]
    fn a_header_alone_becomes_the_acknowledgement() {
        let known = handshake(Handshake::ANSWERED);
        let completion = |length, flags, is_listener| {
            let segment = Segment { flags, ..HEADER };
            completes(&known, &segment, length, is_listener)
        };
        let instead = |sequence, flags, delta| Completion {
            delta,
            instead: Some((sequence, flags)),
        };
        assert_eq!(completion(40, ACK, false), instead(1030, ACK, -12));
        assert_eq!(
            completion(40, ACK | FIN, false),
            instead(1029, ACK | FIN, -12)
        );
        // Without a number to trim by, the rest is cut off.
        assert_eq!(completion(30, ACK | FIN, true), instead(1029, ACK, -2));
        let passes = Completion {
            delta: 8,
            instead: None,
        };
        assert_eq!(completion(20, ACK, false), passes);
    }
}
