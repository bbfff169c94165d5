//! What hides a segment on its way: VLAN tags, options and fragments of IP, extension headers of IPv6, and bytes behind the
//! packet that play a header.

use std::net::SocketAddr;

use tests::random::Random;
use tests::topology::Family;

use super::segment::{ACK, FLAGS, SYN, Segment, TCP, addresses, checksum};

/// Types of frames and of the tags in them.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAGS: [u16; 2] = [0x8100, 0x88a8];
/// Extension headers (IANA).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// Frames longer than this need not be linear (`packet_alloc_skb()` of the kernel).
pub(super) const PAGE: usize = 4096;

/// The one part of a disguise in which the kernel takes nothing.
pub(super) const OTHER_VLAN: &str = "another VLAN";

/// A frame, and how much of it the kernel is to keep in one piece; 0: all.
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    pub(super) linear: u16,
}

/// How a segment is hidden. By default it is not.
#[derive(Clone, Debug, Default)]
pub(super) struct Disguise {
    /// VLAN tags: type, and VLAN id with priority.
    tags: Vec<(u16, u16)>,
    /// Options of IPv4.
    options: Vec<u8>,
    /// Extension headers of IPv6, of these kinds.
    extensions: Vec<u8>,
    /// Where the packet is cut into fragments, in units of eight bytes; for IPv6 behind this number of headers.
    cuts: Vec<usize>,
    uncut: usize,
    /// Whether the last fragment comes first, and whether one comes twice.
    is_reversed: bool,
    is_repeated: bool,
    /// Length of what follows the packet in its frame, and whether it goes on as the packet does, with other flags.
    trailer: usize,
    is_decoy: bool,
    /// How much of a long frame is in one piece.
    linear: u16,
}

impl Disguise {
    /// A tag with a priority and no VLAN, which hides nothing.
    pub(super) fn priority() -> Self {
        Self {
            tags: vec![(TAGS[0], 0x6000)],
            ..Self::default()
        }
    }

    /// Hides segments of a family in one way or several.
    pub(super) fn random(random: &Random, family: Family) -> Self {
        let mut disguise = Self::default();
        while random.once_in(2) {
            match random.below(5) {
                0 => {
                    for _ in 0..random.pick(&[1, 1, 1, 2, 2, 3, 6]) {
                        let id = if random.once_in(12) { 7 } else { 0 };
                        let priority = (random.below(16) as u16) << 12;
                        disguise.tags.push((random.pick(&TAGS), priority | id));
                    }
                }
                1 => {
                    let last = random.pick(&[1, 2, 2, 3, 4, 5, 8]);
                    disguise.cuts = (1..=last).filter(|_| random.once_in(2)).collect();
                    disguise.uncut = random.below(3);
                    disguise.is_reversed = random.once_in(3);
                    disguise.is_repeated = random.once_in(6);
                }
                2 if family == Family::V4 => {
                    disguise.options = vec![1; 4 * random.pick(&[1, 1, 2, 5, 10])];
                }
                2 => disguise.extensions = extensions(random),
                3 => {
                    disguise.trailer = random.pick(&[1, 8, 20, 46]);
                    disguise.is_decoy = random.once_in(2);
                }
                _ => {
                    disguise.trailer = PAGE + random.below(64);
                    disguise.linear = random.pick(&[14, 14, 18, 34, 38, 54, 58, 74, 94]);
                }
            }
        }
        disguise
    }

    /// What it consists of, for people.
    pub(super) fn parts(&self) -> Vec<&'static str> {
        let is_other_vlan = self.tags.iter().any(|(_, tag)| tag & 0xfff != 0);
        let parts = [
            (is_other_vlan, OTHER_VLAN),
            (self.tags.len() == 1 && !is_other_vlan, "a priority tag"),
            (self.tags.len() > 1 && !is_other_vlan, "several of them"),
            (!self.options.is_empty(), "options of IPv4"),
            (!self.cuts.is_empty(), "fragments"),
            ((1..9).contains(&self.extensions.len()), "extension headers"),
            (self.extensions.len() >= 9, "nine of them and more"),
            (self.linear != 0, "not in one piece"),
            (self.trailer != 0 && self.linear == 0, "a trailer"),
        ];
        let parts: Vec<_> = parts
            .into_iter()
            .filter_map(|(is_there, name)| is_there.then_some(name))
            .collect();
        if parts.is_empty() {
            vec!["nothing"]
        } else {
            parts
        }
    }

    /// The frames of a segment between these Ethernet addresses.
    pub(super) fn frames(
        &self,
        random: &Random,
        ethernet: &[u8; 12],
        segment: &Segment,
    ) -> Vec<Frame> {
        let packets = match (segment.source, segment.target) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) => self.packets_v4(random, segment),
            _ => self.packets_v6(random, segment),
        };
        let ether_type = if segment.source.is_ipv4() { IPV4 } else { IPV6 };
        packets
            .into_iter()
            .map(|(packet, rest)| {
                let mut bytes = ethernet.to_vec();
                for (kind, tag) in &self.tags {
                    bytes.extend(kind.to_be_bytes());
                    bytes.extend(tag.to_be_bytes());
                }
                bytes.extend(ether_type.to_be_bytes());
                bytes.extend(packet);
                bytes.extend(self.behind(random, &rest));
                let linear = if bytes.len() > PAGE { self.linear } else { 0 };
                Frame { bytes, linear }
            })
            .collect()
    }

    /// What follows a packet in its frame. `rest` is what would, were the packet not cut.
    fn behind(&self, random: &Random, rest: &[u8]) -> Vec<u8> {
        let mut trailer = random.bytes(self.trailer);
        if self.is_decoy {
            for (byte, played) in trailer.iter_mut().zip(rest) {
                *byte = *played;
            }
        }
        trailer
    }

    /// The packets, each with what plays its rest.
    fn packets_v4(&self, random: &Random, segment: &Segment) -> Vec<(Vec<u8>, Vec<u8>)> {
        let bytes = segment.bytes();
        let id = random.number() as u16;
        let header = |length: usize, place: u16| {
            let words = 5 + self.options.len() / 4;
            let mut header = vec![0x40 | words as u8, 0];
            header.extend((length as u16 + words as u16 * 4).to_be_bytes());
            header.extend(id.to_be_bytes());
            header.extend(place.to_be_bytes());
            header.extend([64, TCP, 0, 0]);
            header.extend(addresses(segment.source.ip(), segment.target.ip()));
            header.extend(&self.options);
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum);
            header
        };
        let played = played(&bytes, 0);
        let mut packets = self.cut(bytes.len(), |from, to, has_more| {
            let place = (from / 8) as u16 | if has_more { 0x2000 } else { 0 };
            let packet = [header(to - from, place), bytes[from..to].to_vec()].concat();
            (packet, played[to..].to_vec())
        });
        self.shuffle(random, &mut packets);
        packets
    }

    fn packets_v6(&self, random: &Random, segment: &Segment) -> Vec<(Vec<u8>, Vec<u8>)> {
        let uncut = self.uncut.min(self.extensions.len());
        let (whole, cut) = self.extensions.split_at(uncut);
        let rest = chain(random, cut, &segment.bytes());
        let (first, rest) = (cut.first().copied().unwrap_or(TCP), rest);
        let header = |next: u8, length: usize| {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((length as u16).to_be_bytes());
            header.extend([next, 64]);
            header.extend(addresses(segment.source.ip(), segment.target.ip()));
            header
        };
        let outer = whole.first().copied();
        if self.cuts.is_empty() {
            let payload = chain_to(random, whole, first, &rest);
            let header = header(outer.unwrap_or(first), payload.len());
            return vec![([header, payload].concat(), Vec::new())];
        }
        let id = random.bytes(4);
        let at_header = rest.len() - segment.bytes().len();
        let played = played(&rest, at_header);
        let mut packets = self.cut(rest.len(), |from, to, has_more| {
            let place = from as u16 | u16::from(has_more);
            let mut fragment = vec![first, 0];
            fragment.extend(place.to_be_bytes());
            fragment.extend(&id);
            fragment.extend(&rest[from..to]);
            (fragment, played[to..].to_vec())
        });
        for (packet, _) in &mut packets {
            let payload = chain_to(random, whole, FRAGMENT, packet);
            *packet = [header(outer.unwrap_or(FRAGMENT), payload.len()), payload].concat();
        }
        self.shuffle(random, &mut packets);
        packets
    }

    /// Cuts `length` bytes, and makes something of each part's begin and end.
    fn cut<T>(&self, length: usize, mut part: impl FnMut(usize, usize, bool) -> T) -> Vec<T> {
        let cuts = self.cuts.iter().map(|cut| cut * 8);
        let mut ends: Vec<_> = cuts.filter(|cut| *cut < length).collect();
        ends.push(length);
        let mut from = 0;
        let parts = ends.iter().map(|to| {
            let made = part(from, *to, *to != length);
            from = *to;
            made
        });
        parts.collect()
    }

    fn shuffle<T: Clone>(&self, random: &Random, packets: &mut Vec<T>) {
        if self.is_repeated {
            packets.push(random_of(random, packets));
        }
        if self.is_reversed {
            packets.reverse();
        }
    }
}

fn random_of<T: Clone>(random: &Random, among: &[T]) -> T {
    among[random.below(among.len())].clone()
}

/// The bytes of a packet whose TCP header, at this place, says that it is no SYN.
fn played(bytes: &[u8], at_header: usize) -> Vec<u8> {
    let mut played = bytes.to_vec();
    played[at_header + FLAGS] = played[at_header + FLAGS] & !SYN | ACK;
    played
}

/// Kinds of extension headers, most of which the kernel passes over.
fn extensions(random: &Random) -> Vec<u8> {
    let number = random.pick(&[1, 1, 1, 2, 3, 7, 8, 9, 10, 12, 20]);
    let mut kinds: Vec<u8> = (0..number)
        .map(|_| random.pick(&[DESTINATION, DESTINATION, DESTINATION, DESTINATION, ROUTING]))
        .collect();
    if random.once_in(4) {
        kinds[0] = HOP_BY_HOP;
    }
    if random.once_in(12) {
        kinds[number - 1] = random.pick(&[FRAGMENT, AUTHENTICATION, HOP_BY_HOP]);
    }
    kinds
}

/// The headers of these kinds, then TCP's segment.
fn chain(random: &Random, kinds: &[u8], segment: &[u8]) -> Vec<u8> {
    chain_to(random, kinds, TCP, segment)
}

/// The headers of these kinds, then what is of the kind `last`.
fn chain_to(random: &Random, kinds: &[u8], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let nexts = kinds.iter().skip(1).chain([&last]);
    for (kind, next) in kinds.iter().zip(nexts) {
        match *kind {
            // An option that nobody knows and that is to be passed over; some are longer.
            HOP_BY_HOP | DESTINATION => {
                let more = random.pick(&[0, 0, 0, 1, 5]);
                bytes.extend([*next, more, 0x1e, 4 + 8 * more]);
                bytes.extend(vec![0; 4 + 8 * usize::from(more)]);
            }
            // Of type 0, and no segments are left.
            ROUTING => bytes.extend([*next, 0, 0, 0, 0, 0, 0, 0]),
            // The only one.
            FRAGMENT => bytes.extend([*next, 0, 0, 0, 0, 0, 0, 1]),
            _ => bytes.extend([*next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
        }
    }
    bytes.extend(payload);
    bytes
}
