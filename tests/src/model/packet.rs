//! Segments between a sender and a server.

use agent_common::unwrap::stream::{ACK, RST, SYN, Segment};

/// A segment on its way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Its sequence number.
    pub sequence: u32,
    /// Its acknowledgment number.
    pub acknowledgment: u32,
    /// Flags of its TCP header.
    pub flags: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A segment without payload.
    pub fn bare(sequence: u32, acknowledgment: u32, flags: u8) -> Self {
        Self {
            sequence,
            acknowledgment,
            flags,
            payload: Vec::new(),
        }
    }

    /// Whether it has this flag.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What answers it where no connection is known (RFC 9293, 3.10.7.1).
    pub fn reset(&self) -> Option<Self> {
        if self.has(RST) {
            return None;
        }
        Some(if self.has(ACK) {
            Self::bare(self.acknowledgment, 0, RST)
        } else {
            let length = self.payload.len() as u32 + u32::from(self.has(SYN));
            Self::bare(0, self.sequence.wrapping_add(length), RST | ACK)
        })
    }

    /// What the programs decide by.
    pub(super) fn segment(&self) -> Segment {
        Segment {
            sequence: self.sequence,
            flags: self.flags,
            payload: self.payload.len(),
            is_whole: true,
        }
    }
}
