//! The programs between a sender and a server, with what their maps hold of the connection.

use agent_common::unwrap::{
    Handshake, Refusal,
    stream::{
        self, ACK, Completion, Next, RST, SYN, acknowledges_syn, before_established, begins,
        completes,
    },
};

use super::{
    packet::Packet,
    server::{Known, Server},
};

/// What is done with a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// Headers are taken off.
    #[default]
    Unwrapped,
    /// It is being given up.
    Ending,
    /// Nothing.
    Untouched,
}

/// Programs and maps, as they are for one pair of ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// What `UNWRAPS` says.
    pub port: Port,
    /// How long the next header is expected to be, by `LENGTHS`.
    pub usual: u16,
    /// `UNWRAPPING`.
    pub handshake: Option<Handshake>,
    /// `TRANSLATED`.
    pub delta: Option<i32>,
    /// `LINGERING`.
    pub lingering: Option<i32>,
    /// `HANDOVERS`: the number of a SYN as the server sees it, and whom the header names that was read.
    pub handover: Option<(u32, u8)>,
}

/// What becomes of a segment to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Let {
    /// What goes on to the server.
    pub through: Option<Packet>,
    /// What the sender is answered in the server's name.
    pub back: Option<Packet>,
    /// Why the connection was refused.
    pub refused: Option<Refusal>,
}

impl Let {
    fn through(packet: &Packet, delta: i32) -> Self {
        Self {
            through: Some(Packet {
                sequence: packet.sequence.wrapping_add_signed(delta),
                ..packet.clone()
            }),
            ..Self::default()
        }
    }
}

/// A segment beside the server that it would go to.
struct Place<'a> {
    path: &'a Path,
    server: &'a Server,
    packet: &'a Packet,
}

impl stream::Known for Place<'_> {
    fn is_local(&self) -> bool {
        true
    }

    fn is_listener(&self) -> bool {
        self.server.known == Known::Nothing
    }

    fn sent_cookie(&self, sequence: u32) -> bool {
        // `bpf_tcp_check_syncookie()` wants an ACK.
        self.packet.has(ACK)
            && !self.packet.has(SYN | RST)
            && (self.server).sent_cookie(sequence, self.packet.acknowledgment)
    }

    fn delta(&self) -> Option<i32> {
        self.path.delta
    }
}

impl Path {
    /// `truepeer_unwrap`: a segment comes in. `read`: the length of a header, and whom it names.
    pub fn ingress(
        &mut self,
        packet: &Packet,
        server: &Server,
        read: impl Fn(&[u8]) -> Result<(u32, u8), Refusal>,
    ) -> Let {
        if self.port == Port::Untouched {
            return Let::through(packet, 0);
        }
        if packet.has(SYN) {
            return if packet.has(ACK) {
                Let::through(packet, 0)
            } else {
                self.syn(packet, server)
            };
        }
        match server.known {
            Known::Waiting { .. } => return Let::through(packet, self.lingering.unwrap_or(0)),
            Known::Connected(_) => return Let::through(packet, self.delta.unwrap_or(0)),
            Known::Nothing | Known::HalfOpen(_) => {}
        }
        let place = Place {
            path: self,
            server,
            packet,
        };
        match before_established(self.handshake, &packet.segment(), &place) {
            Next::Passes(delta) => Let::through(packet, delta),
            Next::Ends(delta) => {
                self.delta = None;
                Let::through(packet, delta)
            }
            Next::Dropped | Next::Hidden => Let::default(),
            Next::Refused(refusal) => self.refuse(packet, refusal),
            Next::Header => match read(&packet.payload) {
                Ok(header) => self.header(packet, server, header),
                Err(refusal) => self.refuse(packet, refusal),
            },
        }
    }

    fn syn(&mut self, packet: &Packet, server: &Server) -> Let {
        self.lingering = None;
        if !packet.payload.is_empty() {
            return Let::default();
        }
        let new = Handshake {
            isn: packet.sequence,
            shift: if self.port == Port::Ending {
                0
            } else {
                self.usual
            },
            ..Handshake::default()
        };
        let is_half_open = || matches!(server.known, Known::HalfOpen(_));
        let handshake = if begins(self.handshake, new.isn, is_half_open) {
            new
        } else {
            self.handshake.unwrap_or(new)
        };
        self.handshake = Some(handshake);
        Let::through(packet, handshake.shift.into())
    }

    fn header(&mut self, packet: &Packet, server: &Server, (length, client): (u32, u8)) -> Let {
        let handshake = self.handshake.unwrap_or_default();
        let is_listener = server.known == Known::Nothing;
        let completion = completes(&handshake, &packet.segment(), length, is_listener);
        let Completion { delta, instead } = completion;
        self.delta = (delta != 0).then_some(delta);
        if length != u32::from(handshake.shift) {
            self.usual = length as u16;
        }
        self.handover = Some((handshake.first().wrapping_sub(1), client));
        self.handshake = Some(Handshake {
            progress: Handshake::READ,
            ..handshake
        });
        match instead {
            Some((sequence, flags)) => Let {
                through: Some(Packet::bare(sequence, packet.acknowledgment, flags)),
                ..Let::default()
            },
            None => Let::through(packet, delta),
        }
    }

    fn refuse(&mut self, packet: &Packet, refusal: Refusal) -> Let {
        let first = self.handshake.take().map(|handshake| handshake.first());
        Let {
            through: first.map(|first| Packet::bare(first, 0, RST)),
            back: Some(Packet::bare(packet.acknowledgment, 0, RST)),
            refused: Some(refusal),
        }
    }

    /// `truepeer_answer`: the server sends a segment.
    pub fn egress(&mut self, packet: &Packet, server: &Server) -> Packet {
        let subtracted = self.subtracted(packet, server);
        Packet {
            acknowledgment: packet.acknowledgment.wrapping_sub(subtracted as u32),
            ..packet.clone()
        }
    }

    fn subtracted(&mut self, packet: &Packet, server: &Server) -> i32 {
        if self.port == Port::Untouched || !packet.has(ACK) {
            return 0;
        }
        let is_connected = matches!(server.known, Known::Connected(_));
        if let Some(handshake) = &mut self.handshake
            && acknowledges_syn(handshake, packet.flags, packet.acknowledgment, is_connected)
        {
            if packet.has(SYN) {
                handshake.progress = handshake.progress.max(Handshake::ANSWERED);
            }
            return handshake.shift.into();
        }
        if packet.has(SYN) {
            return 0;
        }
        let lingering = self.lingering.filter(|_| !is_connected);
        self.delta.or(lingering).unwrap_or(0)
    }

    /// `truepeer_learn`: the server has accepted a connection. Returns whom the handover names.
    pub fn accepted(&mut self, first: u32) -> Option<u8> {
        let (syn, client) = self.handover?;
        (syn == first.wrapping_sub(1)).then(|| {
            self.handover = None;
            client
        })
    }

    /// `truepeer_learn`: the server's socket has gone.
    pub fn closed(&mut self) {
        self.handshake = None;
        if let Some(delta) = self.delta.take() {
            self.lingering = Some(delta);
        }
    }

    /// The agent gives the port up: the handshake is forgotten if it was touched. Returns whether the connection would break
    /// without the programs, and is to be reset.
    pub fn give_up(&mut self, server: &Server) -> bool {
        let is_half_open = matches!(server.known, Known::HalfOpen(_));
        self.handshake = self.handshake.filter(Handshake::is_untouched);
        let is_answered = |handshake: Handshake| handshake.progress == Handshake::ANSWERED;
        let is_touched = !self.handshake.is_some_and(is_answered);
        self.delta.is_some() || is_half_open && is_touched
    }
}
