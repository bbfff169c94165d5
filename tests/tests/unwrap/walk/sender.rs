//! What a sender may send: parts of streams that begin with a header, and what no honest sender sends.

use std::net::SocketAddr;

use agent_common::proxy::{Parsed, Peer, parse};
use agent_common::unwrap::Refusal;
use agent_common::unwrap::stream::{ACK, FIN};
use tests::model::Packet;
use tests::proxies::proxy_header::{anonymous, v1, v2, with_tlv};
use tests::random::Random;
use tests::topology::Family;

/// How many bytes follow a header.
const DATA: usize = 6;

/// The headers with which streams begin, and whom they name.
pub(super) struct Headers {
    all: Vec<(Vec<u8>, SocketAddr)>,
}

impl Headers {
    /// To this server: of both versions, of several lengths, and one that names nobody but its sender.
    pub(super) fn new(family: Family, source: SocketAddr, target: SocketAddr) -> Self {
        let client = |n| SocketAddr::new(family.client(n), 4711 + n as u16);
        let all = [
            (v2(client(0), target), client(0)),
            (with_tlv(client(1), target, Some(9)), client(1)),
            (v1(client(2), target), client(2)),
            (with_tlv(client(3), target, Some(40)), client(3)),
            (anonymous(&Peer::Local), source),
        ];
        Self { all: all.into() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whom this one names.
    pub(super) fn client(&self, number: u8) -> SocketAddr {
        self.all[usize::from(number)].1
    }

    /// The length of the header at the beginning of a payload, and which one it is, as the agent's relay would read it.
    pub(super) fn read(&self, payload: &[u8]) -> Result<(u32, u8), Refusal> {
        let header = match parse(payload) {
            Parsed::Header(header) => header,
            // `P` and more could yet become anything.
            Parsed::Incomplete(_) if b"PROXY ".starts_with(payload) => {
                return Err(Refusal::NoHeader);
            }
            Parsed::Incomplete(_) => return Err(Refusal::Split),
            Parsed::Error(reason) => return Err(reason.into()),
        };
        let is_it = |(known, _): &(Vec<u8>, SocketAddr)| payload.starts_with(known);
        let number = self.all.iter().position(is_it).expect("one of them");
        Ok((header.len as u32, number as u8))
    }

    /// The stream that begins with this one.
    pub(super) fn stream(&self, number: usize, isn: u32) -> Stream {
        let header = &self.all[number].0;
        let data = (header.len()..header.len() + DATA).map(|at| b'a' + (at % 26) as u8);
        Stream {
            isn,
            header: header.len(),
            bytes: header.iter().copied().chain(data).collect(),
        }
    }
}

/// All that a sender has to say on a connection.
pub(super) struct Stream {
    /// The number of its SYN.
    pub(super) isn: u32,
    /// How long the header is.
    header: usize,
    bytes: Vec<u8>,
}

impl Stream {
    /// The number of a byte of the stream; that of the end is behind the last one's.
    pub(super) fn number(&self, at: usize) -> u32 {
        self.isn.wrapping_add(1 + at as u32)
    }

    /// The part from here to there. The end counts as one byte.
    fn part(&self, from: usize, to: usize) -> Packet {
        let length = self.bytes.len();
        let fin = if (from..to).contains(&length) { FIN } else { 0 };
        Packet {
            sequence: self.number(from),
            acknowledgment: 0,
            flags: ACK | fin,
            payload: self.bytes[from.min(length)..to.min(length)].to_vec(),
        }
    }

    /// Where segments begin and end.
    fn edges(&self) -> [usize; 6] {
        let Self { header, bytes, .. } = self;
        let (header, length) = (*header, bytes.len());
        [0, header, header + 1, header + 3, length, length + 1]
    }

    /// A part of the stream, which is nothing but an ACK if it is empty.
    pub(super) fn any(&self, random: &Random) -> Packet {
        let edges = self.edges();
        let [one, other] = [0; 2].map(|_| random.pick(&edges));
        self.part(one.min(other), one.max(other))
    }

    /// What is next, from this byte on.
    pub(super) fn next(&self, random: &Random, from: usize) -> Packet {
        let from = from.min(self.bytes.len() + 1);
        let ends: Vec<_> = self.edges().into_iter().filter(|end| *end > from).collect();
        self.part(
            from,
            if ends.is_empty() {
                from
            } else {
                random.pick(&ends)
            },
        )
    }

    /// What comes first: usually with the whole header.
    pub(super) fn first(&self, random: &Random) -> Packet {
        let [_, header, .., length, end] = self.edges();
        let ends = [header, header, header + 3, header + 3, length, end];
        match random.below(20) {
            // The header ends in another segment.
            0 => self.part(0, random.pick(&[header - 1, 5, 13])),
            // Something else comes, or what only begins like a header.
            1 => Packet {
                payload: random
                    .pick(&[
                        &b"GET / HTTP/1.1\r\n\r\n"[..],
                        b"PROXY TCP4 a\r\n",
                        &[0x0d; 20],
                        INVALID,
                    ])
                    .to_vec(),
                ..self.part(0, 1)
            },
            2 => Packet {
                flags: 0,
                ..self.part(0, header)
            },
            _ => self.part(0, random.pick(&ends)),
        }
    }

    /// The end of an empty stream.
    pub(super) fn bare_end(&self) -> Packet {
        Packet::bare(self.number(0), 0, ACK | FIN)
    }
}

/// A header of version 2 whose version is another one.
const INVALID: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x00";
