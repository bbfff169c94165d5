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
    /// A connection that has ended (TIME_WAIT). The number is what was expected last.
    Waiting(u32),
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
}

impl Connected {
    /// The number that is expected next.
    pub fn next(&self) -> u32 {
        let length = self.received.len() as u32 + u32::from(self.ended.0);
        self.first.wrapping_add(length)
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
    /// The connection's socket has gone.
    pub is_closed: bool,
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

    /// Repeats the SYN-ACK.
    pub fn repeat(&self) -> Option<Packet> {
        let Known::HalfOpen(next) = self.known else {
            return None;
        };
        Some(Self::syn_ack(next.wrapping_sub(1)))
    }

    fn syn_ack(syn: u32) -> Packet {
        Packet::bare(Self::isn(syn), syn.wrapping_add(1), SYN | ACK)
    }

    /// The application closes the connection.
    pub fn close(&mut self) -> Option<Packet> {
        let Known::Connected(connected) = &mut self.known else {
            return None;
        };
        connected.ended.1 = true;
        let sequence = Self::isn(connected.first.wrapping_sub(1)).wrapping_add(1);
        Some(Packet::bare(sequence, connected.next(), FIN | ACK))
    }

    /// Somebody destroys the socket (`tcp_abort()`).
    pub fn abort(&mut self) -> Reaction {
        let known = std::mem::take(&mut self.known);
        let Known::Connected(connected) = known else {
            return Reaction::default();
        };
        let sent = 1 + u32::from(connected.ended.1);
        let sequence = Self::isn(connected.first.wrapping_sub(1)).wrapping_add(sent);
        Reaction {
            answer: Some(Packet::bare(sequence, connected.next(), RST | ACK)),
            is_closed: true,
            ..Reaction::default()
        }
    }

    /// A segment arrives.
    pub fn receives(&mut self, packet: &Packet) -> Reaction {
        match self.known {
            Known::Nothing => self.listener(packet),
            Known::HalfOpen(next) => self.half_open(packet, next),
            Known::Connected(_) => self.connected(packet),
            Known::Waiting(next) => self.waiting(packet, next),
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
            return if !self.sent_cookie(packet.sequence, packet.acknowledgment) {
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
        if self.listening.cookies {
            if !self.cookies.contains(&packet.sequence) {
                self.cookies.push(packet.sequence);
                self.cookies.sort_unstable();
            }
        } else {
            self.known = Known::HalfOpen(packet.sequence.wrapping_add(1));
        }
        Self::answers(Some(Self::syn_ack(packet.sequence)))
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
        let own = Self::isn(connected.first.wrapping_sub(1)).wrapping_add(1);
        let sent = own.wrapping_add(u32::from(connected.ended.1));
        let next = connected.next();
        if packet.has(SYN) || packet.has(RST) && packet.sequence != next {
            let is_challenged = packet.has(SYN) || is_within(packet, next);
            let challenge = Packet::bare(sent, next, ACK);
            return Self::answers(is_challenged.then_some(challenge));
        }
        if packet.has(RST) {
            self.known = Known::Nothing;
            return Reaction {
                is_closed: true,
                ..Reaction::default()
            };
        }
        let is_new = end(packet) != next || packet.sequence != next;
        let ahead = next.wrapping_sub(packet.sequence) as usize;
        if ahead <= packet.payload.len() && !connected.ended.0 {
            connected.received.extend(&packet.payload[ahead..]);
            connected.ended.0 = packet.has(FIN);
        }
        let answer = is_new.then(|| Packet::bare(sent, connected.next(), ACK));
        let is_acknowledged = packet.has(ACK) && packet.acknowledgment == own.wrapping_add(1);
        let mut is_closed = false;
        if connected.ended == (true, true) && is_acknowledged {
            // Who closes first waits. It does not matter here who did.
            self.known = Known::Waiting(connected.next());
            is_closed = true;
        }
        Reaction {
            answer,
            is_closed,
            ..Reaction::default()
        }
    }

    fn waiting(&mut self, packet: &Packet, next: u32) -> Reaction {
        let is_later = packet.sequence.wrapping_sub(next) < 1 << 31 && packet.sequence != next;
        if packet.has(SYN) && !packet.has(ACK) && is_later {
            self.known = Known::Nothing;
            return self.listener(packet);
        }
        if packet.has(RST) {
            if packet.sequence == next {
                self.known = Known::Nothing;
            }
            return Reaction::default();
        }
        let is_bare = packet.payload.is_empty() && !packet.has(SYN | FIN);
        Self::answers((!is_bare).then(|| Packet::bare(packet.acknowledgment, next, ACK)))
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
