//! The server's kernel: what Linux does with the segments of one connection to a listener (`tcp_check_req()`,
//! `cookie_v4_check()`, `tcp_rcv_established()`), as far as numbers and states go.

use agent_common::unwrap::stream::{ACK, FIN, RST, SYN};

use super::packet::Packet;

/// How far ahead of what it expects a server takes a sequence number.
const WINDOW: u32 = 1 << 16;

/// How a server listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listening {
    /// It answers every SYN with a cookie (`tcp_syncookies = 2`).
    pub cookies: bool,
    /// It waits for payload (TCP_DEFER_ACCEPT).
    pub defers: bool,
    /// Its queue is full.
    pub is_full: bool,
}

/// What the server has of the connection between two ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Known {
    /// Nothing: segments go to the listener.
    #[default]
    Nothing,
    /// A handshake. The number is that of the first byte that is expected.
    HalfOpen(u32),
    /// A connection.
    Connected(Connected),
    /// A connection that has ended (TIME_WAIT).
    Waiting {
        /// What was expected last.
        next: u32,
        /// The number behind all that was sent.
        sent: u32,
    },
}

/// A connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connected {
    /// The number of the first byte.
    pub first: u32,
    /// What has been received.
    pub received: Vec<u8>,
    /// Whether the sender has finished, and whether the server has.
    pub ended: (bool, bool),
    /// Whether the server has finished first, and waits in the end.
    waits: bool,
    /// Whether the sender has acknowledged the server's end.
    pub is_acknowledged: bool,
    /// Segments before which another has to come.
    early: Vec<Packet>,
}

impl Connected {
    /// The number that is expected next.
    pub fn next(&self) -> u32 {
        let length = self.received.len() as u32 + u32::from(self.ended.0);
        self.first.wrapping_add(length)
    }

    /// The number behind the SYN-ACK.
    pub fn own(&self) -> u32 {
        Server::isn(self.first.wrapping_sub(1)).wrapping_add(1)
    }

    /// The number behind all that the server has sent.
    fn sent(&self) -> u32 {
        self.own().wrapping_add(self.ended.1.into())
    }

    /// What is left of it when both have finished.
    fn then(&self) -> Known {
        if self.waits {
            Known::Waiting {
                next: self.next(),
                sent: self.sent(),
            }
        } else {
            Known::Nothing
        }
    }

    fn acknowledges(&self) -> Packet {
        Packet::bare(self.sent(), self.next(), ACK)
    }

    /// Takes a segment, and those that came before it although it precedes them.
    fn take(&mut self, packet: &Packet) {
        self.early.push(Packet {
            acknowledgment: 0,
            flags: packet.flags & FIN,
            ..packet.clone()
        });
        loop {
            let next = self.next();
            let is_due = |early: &Packet| next.wrapping_sub(early.sequence) < 1 << 31;
            let Some(at) = self.early.iter().position(is_due) else {
                break;
            };
            let due = self.early.swap_remove(at);
            let ahead = next.wrapping_sub(due.sequence) as usize;
            if ahead <= due.payload.len() && !self.ended.0 {
                self.received.extend(&due.payload[ahead..]);
                self.ended.0 = due.has(FIN);
            }
        }
        self.early.sort();
        self.early.dedup();
    }
}

/// A server, and one pair of ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// How it listens.
    pub listening: Listening,
    /// What it has of the connection.
    pub known: Known,
    /// The numbers of SYNs that were answered by cookies.
    cookies: Vec<u32>,
}

/// What comes of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// What the server sends.
    pub answer: Option<Packet>,
    /// The connection was established by it.
    pub is_accepted: bool,
    /// The connection whose socket has gone.
    pub closed: Option<Connected>,
}

impl Server {
    /// A server that listens.
    pub fn new(listening: Listening) -> Self {
        Self {
            listening,
            ..Self::default()
        }
    }

    /// The number of the SYN-ACK for a SYN with this number.
    pub fn isn(syn: u32) -> u32 {
        syn.wrapping_mul(31).wrapping_add(7)
    }

    /// Whether the segment, if it had this sequence number, would be the ACK of a cookie.
    pub(super) fn sent_cookie(&self, sequence: u32, acknowledgment: u32) -> bool {
        let syn = sequence.wrapping_sub(1);
        self.cookies.contains(&syn) && acknowledgment == Self::isn(syn).wrapping_add(1)
    }

    /// Repeats the SYN-ACK, or the end.
    pub fn repeat(&self) -> Option<Packet> {
        match &self.known {
            Known::HalfOpen(next) => Some(Self::syn_ack(next.wrapping_sub(1))),
            Known::Connected(connected) if connected.ended.1 && !connected.is_acknowledged => {
                Some(Packet::bare(connected.own(), connected.next(), FIN | ACK))
            }
            _ => None,
        }
    }

    fn syn_ack(syn: u32) -> Packet {
        Packet::bare(Self::isn(syn), syn.wrapping_add(1), SYN | ACK)
    }

    /// The application closes the connection.
    pub fn close(&mut self) -> Option<Packet> {
        let Known::Connected(connected) = &mut self.known else {
            return None;
        };
        let end = Packet::bare(connected.sent(), connected.next(), FIN | ACK);
        connected.ended.1 = true;
        connected.waits = !connected.ended.0;
        Some(end)
    }

    /// Somebody destroys the socket (`tcp_abort()`, or `tcp_disconnect()`).
    pub fn abort(&mut self) -> Reaction {
        let known = std::mem::take(&mut self.known);
        let Known::Connected(connected) = known else {
            return Reaction::default();
        };
        let reset = Packet {
            flags: RST | ACK,
            ..connected.acknowledges()
        };
        Reaction {
            // `tcp_need_reset()`: there is nobody to be told.
            answer: (connected.ended != (true, true)).then_some(reset),
            closed: Some(connected),
            ..Reaction::default()
        }
    }

    /// A segment arrives.
    pub fn receives(&mut self, packet: &Packet) -> Reaction {
        match self.known {
            Known::Nothing => self.listener(packet),
            Known::HalfOpen(next) => self.half_open(packet, next),
            Known::Connected(_) => self.connected(packet),
            Known::Waiting { next, sent } => self.waiting(packet, next, sent),
        }
    }

    fn answers(answer: Option<Packet>) -> Reaction {
        Reaction {
            answer,
            ..Reaction::default()
        }
    }

    fn listener(&mut self, packet: &Packet) -> Reaction {
        if packet.has(RST) {
            return Reaction::default();
        }
        if packet.has(ACK) {
            let is_cookie = self.sent_cookie(packet.sequence, packet.acknowledgment);
            return if packet.has(SYN) || !is_cookie {
                Self::answers(packet.reset())
            } else if self.listening.is_full {
                Reaction::default()
            } else {
                self.establish(packet.sequence, packet)
            };
        }
        if !packet.has(SYN) || self.listening.is_full {
            return Reaction::default();
        }
        if !self.listening.cookies {
            return self.open(packet);
        }
        if !self.cookies.contains(&packet.sequence) {
            self.cookies.push(packet.sequence);
            self.cookies.sort_unstable();
        }
        Self::answers(Some(Self::syn_ack(packet.sequence)))
    }

    fn open(&mut self, syn: &Packet) -> Reaction {
        self.known = Known::HalfOpen(syn.sequence.wrapping_add(1));
        Self::answers(Some(Self::syn_ack(syn.sequence)))
    }

    fn half_open(&mut self, packet: &Packet, next: u32) -> Reaction {
        let syn = next.wrapping_sub(1);
        if packet.has(SYN) && !packet.has(ACK) && packet.sequence == syn {
            return Self::answers(Some(Self::syn_ack(syn)));
        }
        let own = Self::isn(syn).wrapping_add(1);
        if packet.has(ACK) && packet.acknowledgment != own {
            // The listener has it.
            return Self::answers(packet.reset());
        }
        if !is_within(packet, next) {
            let challenge = Packet::bare(own, next, ACK);
            return Self::answers((!packet.has(RST)).then_some(challenge));
        }
        if packet.has(RST | SYN) {
            self.known = Known::Nothing;
            return Self::answers(packet.reset());
        }
        let is_bare = end(packet) == next;
        if !packet.has(ACK)
            || self.listening.is_full
            || self.listening.defers && is_bare && !packet.has(FIN)
        {
            return Reaction::default();
        }
        self.establish(next, packet)
    }

    fn establish(&mut self, first: u32, packet: &Packet) -> Reaction {
        self.known = Known::Connected(Connected {
            first,
            ..Connected::default()
        });
        Reaction {
            is_accepted: true,
            ..self.connected(packet)
        }
    }

    fn connected(&mut self, packet: &Packet) -> Reaction {
        let Known::Connected(connected) = &mut self.known else {
            return Reaction::default();
        };
        let next = connected.next();
        let challenge = connected.acknowledges();
        if packet.has(RST) {
            // A sender that has finished may not know that its end was taken (`tcp_reset_check()`).
            let is_before_end = connected.ended.0 && packet.sequence.wrapping_add(1) == next;
            if packet.sequence != next && !is_before_end {
                return Self::answers(is_within(packet, next).then_some(challenge));
            }
            return self.ends(None, Known::Nothing);
        }
        if packet.has(SYN) {
            return Self::answers(Some(challenge));
        }
        if !packet.has(ACK) {
            return Reaction::default();
        }
        let is_old = end(packet).wrapping_sub(next) >= 1 << 31;
        if is_old || packet.sequence.wrapping_sub(next) as i32 >= WINDOW as i32 {
            return Self::answers(Some(challenge));
        }
        let sent = connected.sent();
        connected.is_acknowledged |= connected.ended.1 && packet.acknowledgment == sent;
        if connected.is_acknowledged && connected.ended.0 {
            let then = connected.then();
            return self.ends(None, then);
        }
        if end(packet) == packet.sequence {
            let is_behind = packet.sequence.wrapping_sub(next) >= 1 << 31;
            return Self::answers(is_behind.then_some(challenge));
        }
        if connected.ended.0 && end(packet).wrapping_sub(next) as i32 > 0 {
            // The sender has finished, and goes on (`tcp_rcv_state_process()`).
            let is_behind = packet.sequence.wrapping_sub(next) < 1 << 31;
            let length = end(packet).wrapping_sub(u32::from(packet.has(FIN)));
            return if is_behind || length.wrapping_sub(next) as i32 <= 0 {
                Reaction::default()
            } else {
                self.ends(packet.reset(), Known::Nothing)
            };
        }
        connected.take(packet);
        let answer = connected.acknowledges();
        if connected.is_acknowledged && connected.ended.0 {
            let then = connected.then();
            return self.ends(Some(answer), then);
        }
        Self::answers(Some(answer))
    }

    /// The connection ends.
    fn ends(&mut self, answer: Option<Packet>, then: Known) -> Reaction {
        let closed = match std::mem::replace(&mut self.known, then) {
            Known::Connected(connected) => Some(connected),
            _ => None,
        };
        Reaction {
            answer,
            closed,
            ..Reaction::default()
        }
    }

    fn waiting(&mut self, packet: &Packet, next: u32, sent: u32) -> Reaction {
        // As `after()` of the kernel has it.
        let is_later = next.wrapping_sub(packet.sequence) >= 1 << 31;
        if packet.has(SYN) && !packet.has(ACK) && is_later {
            self.known = Known::Nothing;
            // There is no cookie for it.
            return if self.listening.is_full {
                Reaction::default()
            } else {
                self.open(packet)
            };
        }
        if packet.has(RST) {
            if packet.sequence == next {
                self.known = Known::Nothing;
            }
            return Reaction::default();
        }
        let is_last = packet.sequence == next && end(packet) == next;
        Self::answers((!is_last).then(|| Packet::bare(sent, next, ACK)))
    }
}

/// The number behind a segment's last byte.
fn end(packet: &Packet) -> u32 {
    let flags = u32::from(packet.has(SYN)) + u32::from(packet.has(FIN));
    (packet.sequence)
        .wrapping_add(packet.payload.len() as u32)
        .wrapping_add(flags)
}

/// `tcp_in_window()`.
fn is_within(packet: &Packet, next: u32) -> bool {
    let is_inside = |number: u32| number.wrapping_sub(next) < WINDOW;
    let length = end(packet).wrapping_sub(packet.sequence);
    let reaches = length != 0 && is_inside(end(packet).wrapping_sub(1));
    is_inside(packet.sequence) || reaches
}
