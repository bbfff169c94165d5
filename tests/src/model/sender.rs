//! A sender: a TCP of its own, whose stream begins with a header, and which may connect again from the same port.

use agent_common::unwrap::{
    Refusal,
    stream::{ACK, FIN, RST, SYN},
};

use super::packet::Packet;

/// How many bytes follow the header.
pub(super) const DATA: usize = 2;
/// Marks a byte of a header. The low bits say which connection's it is.
const HEADER: u8 = 0x80;

/// How a connection stands for the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Phase {
    /// It has sent a SYN.
    #[default]
    Opening,
    /// The server has answered.
    Open,
    /// It was reset: the sender knows.
    Told,
    /// The sender has reset it.
    Left,
}

/// A connection as the sender sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Sender {
    /// Which of its connections it is.
    pub(super) number: u8,
    /// The number of its SYN.
    pub(super) isn: u32,
    /// How long its header is.
    pub(super) header: u8,
    pub(super) phase: Phase,
    /// How much of the stream was acknowledged, and how much was sent; the end counts as one byte.
    pub(super) acknowledged: u8,
    pub(super) sent: u8,
    /// The number that it expects.
    expected: u32,
}

/// The length of the header at the beginning of a payload, and whom it names: itself, by any of its bytes.
pub(super) fn read(payload: &[u8]) -> Result<(u32, u8), Refusal> {
    let length = payload.iter().take_while(|byte| **byte & HEADER != 0);
    match length.count() as u32 {
        0 => Err(Refusal::NoHeader),
        length => Ok((length, payload[0])),
    }
}

impl Sender {
    /// A connection that begins.
    pub(super) fn new(number: u8, isn: u32, header: u8) -> Self {
        Self {
            number,
            isn,
            header,
            ..Self::default()
        }
    }

    /// All that it sends, without the end.
    pub(super) fn stream(&self) -> Vec<u8> {
        let header = std::iter::repeat_n(HEADER | self.number, self.header.into());
        header.chain(self.data()).collect()
    }

    /// What it sends behind the header.
    pub(super) fn data(&self) -> impl Iterator<Item = u8> {
        let first = self.number * 16;
        (0..DATA as u8).map(move |byte| first + byte)
    }

    /// Whose byte of a stream this is.
    pub(super) fn number_of(byte: u8) -> u8 {
        if byte & HEADER != 0 {
            byte & !HEADER
        } else {
            byte / 16
        }
    }

    /// The length of the stream, its end included.
    pub(super) fn length(&self) -> u8 {
        self.header + DATA as u8 + 1
    }

    pub(super) fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Opening | Phase::Open)
    }

    pub(super) fn syn(&self) -> Packet {
        Packet::bare(self.isn, 0, SYN)
    }

    /// The part of the stream from `from` to `to`.
    pub(super) fn part(&self, from: u8, to: u8) -> Packet {
        let stream = self.stream();
        let fin = if to == self.length() { FIN } else { 0 };
        let end = stream.len().min(to.into());
        Packet {
            payload: stream[usize::from(from).min(end)..end].to_vec(),
            ..self.bare(from, ACK | fin)
        }
    }

    pub(super) fn bare(&self, at: u8, flags: u8) -> Packet {
        let sequence = self.isn.wrapping_add(1 + u32::from(at));
        Packet::bare(sequence, self.expected, flags)
    }

    /// A segment arrives; returns what it answers at once.
    pub(super) fn receives(&mut self, packet: &Packet) -> Option<Packet> {
        let acknowledged = packet.acknowledgment.wrapping_sub(self.isn.wrapping_add(1));
        match self.phase {
            Phase::Opening => {
                let is_acceptable = packet.has(ACK) && acknowledged == 0;
                if packet.has(RST) {
                    if is_acceptable {
                        self.phase = Phase::Told;
                    }
                    return None;
                }
                if !is_acceptable {
                    return packet.has(ACK).then(|| packet.reset()).flatten();
                }
                if !packet.has(SYN) {
                    return None;
                }
                self.phase = Phase::Open;
                self.expected = packet.sequence.wrapping_add(1);
                Some(self.bare(0, ACK))
            }
            Phase::Open if packet.has(RST) => {
                if packet.sequence == self.expected {
                    self.phase = Phase::Told;
                    return None;
                }
                // RFC 5961, 3.2: a challenge.
                Some(self.bare(self.sent, ACK))
            }
            Phase::Open => {
                if acknowledged > u32::from(self.sent) || packet.has(SYN) {
                    return None;
                }
                self.acknowledged = self.acknowledged.max(acknowledged as u8);
                if !packet.has(FIN) || packet.sequence != self.expected {
                    return None;
                }
                self.expected = self.expected.wrapping_add(1);
                Some(self.bare(self.sent, ACK))
            }
            // No socket is there any more.
            Phase::Told | Phase::Left => packet.reset(),
        }
    }

    /// The sender resets the connection.
    pub(super) fn leave(&mut self) -> Packet {
        let flags = match self.phase {
            Phase::Open => RST | ACK,
            _ => RST,
        };
        self.phase = Phase::Left;
        self.bare(self.sent, flags)
    }
}
