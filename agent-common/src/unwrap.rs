//! unwrap: ports on which a PROXY header is taken off the stream, and their handshakes.

pub mod stream;

use crate::proxy;

/// Key of the `UNWRAPS` map: neighbouring ports of an interface.
///
/// Layout (16 bytes): netns 0..8, ifindex 8..12, number 12..14, padding 14..16.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Page {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The interface by which connections come in.
    pub ifindex: u32,
    /// Which [`PAGE`] ports they are: the high bits of a port.
    pub number: u16,
    /// Always zero.
    pub padding: u16,
}

/// How many ports a page has.
pub const PAGE: usize = 1 << 12;
/// How many pages all ports of an interface have. What an interface can take of the table does not depend on how many ports
/// it unwraps, so that one pod cannot take what others need.
pub const PAGES: u32 = 16;

impl Page {
    /// The page of a port (host byte order).
    #[inline(always)]
    pub const fn of(netns: u64, ifindex: u32, port: u16) -> Self {
        Self {
            netns,
            ifindex,
            number: port >> 12,
            padding: 0,
        }
    }
}

/// Which versions of the header are taken, and on what terms: at most four bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions(pub u32);

impl Versions {
    /// Version 1.
    pub const V1: Self = Self(1);
    /// Version 2.
    pub const V2: Self = Self(2);
    /// No version: a connection whose client the server's socket cannot express is refused.
    pub const EXPRESSED: Self = Self(4);
    /// No version: the port is being given up. Handshakes that have begun go on; others pass untouched.
    pub const ENDING: Self = Self(8);

    /// How many bits a port has in a page, and all of them.
    const WIDTH: u32 = 4;
    const MASK: u64 = (1 << Self::WIDTH) - 1;

    /// Whether `version` is among them.
    #[inline(always)]
    pub const fn has(self, version: Self) -> bool {
        self.0 & version.0 != 0
    }
}

/// How many ports a word has room for.
const PORTS: usize = (u64::BITS / Versions::WIDTH) as usize;

/// Value of the `UNWRAPS` map: which versions of the header are taken on each port of a page.
///
/// Layout (2,048 bytes): 256 words of 64 bits in the machine's byte order; a port `p` has four bits of word `p / 16 % 256`,
/// the lowest of which is bit `p % 16 * 4`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageVersions([u64; PAGE / PORTS]);

impl PageVersions {
    /// None on any port.
    pub const NONE: Self = Self([0; PAGE / PORTS]);

    /// From now on, these are taken on a port (host byte order).
    pub const fn set(&mut self, port: u16, versions: Versions) {
        let (word, shift) = Self::at(port);
        self.0[word] &= !(Versions::MASK << shift);
        self.0[word] |= (versions.0 as u64) << shift;
    }

    /// Those that are taken on a port (host byte order).
    #[inline(always)]
    pub const fn of(&self, port: u16) -> Versions {
        let (word, shift) = Self::at(port);
        Versions((self.0[word] >> shift & Versions::MASK) as u32)
    }

    /// The ports, of a page with this number, on which some are taken here and none there.
    pub fn without(&self, other: &Self, number: u16) -> impl Iterator<Item = u16> {
        let ports = (0..PAGE as u16).map(move |port| number << 12 | port);
        ports.filter(|port| self.of(*port).0 != 0 && other.of(*port).0 == 0)
    }

    #[inline(always)]
    const fn at(port: u16) -> (usize, u32) {
        let word = (port as usize / PORTS) % (PAGE / PORTS);
        (word, port as u32 % PORTS as u32 * Versions::WIDTH)
    }
}

/// A connection whose server has not established it yet: value of the `UNWRAPPING` map.
///
/// Layout (12 bytes): isn 0..4, rule 4..8, shift 8..10, is_told 10, progress 11.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handshake {
    /// The sender's initial sequence number, host byte order.
    pub isn: u32,
    /// [`crate::origin::rule_id`] of the rule that believes the sender's header.
    pub rule: u32,
    /// By how much the server's sequence number is higher: the expected length of the header. 0: the port is being given
    /// up, and nothing is taken off.
    pub shift: u16,
    /// 1 if TOA or this node told who sends the header; `HANDOVERS` has it, as a pending claim. Else 0.
    pub is_told: u8,
    /// [`Self::BEGUN`], [`Self::ANSWERED`] or [`Self::READ`].
    pub progress: u8,
}

impl Handshake {
    /// The SYN came.
    pub const BEGUN: u8 = 0;
    /// The server's SYN-ACK has shown that it expects [`Self::first`].
    pub const ANSWERED: u8 = 1;
    /// The header came and was let through to the server.
    pub const READ: u8 = 2;

    /// Whether the connection has no header that is to be taken off.
    #[inline(always)]
    pub const fn is_untouched(&self) -> bool {
        self.shift == 0
    }

    /// The sequence number of the first byte that the server expects.
    #[inline(always)]
    pub const fn first(&self) -> u32 {
        self.isn.wrapping_add(self.shift as u32).wrapping_add(1)
    }
}

/// Where a connection to a port with unwrap goes: value of the `WHEREABOUTS` map, as its number.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// A socket of this network namespace takes it, with the address and port that the sender knows.
    Here = 0,
    /// Netfilter sends it to another host, pod, address or port.
    Elsewhere = 1,
}

/// Key of the `LENGTHS` map: a sender to a port, whose next header probably has the length of its last.
///
/// Layout (28 bytes): netns 0..8 as two words, sender 8..24, port 24..26, padding 26..28.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Habit {
    /// Cookie of the network namespace, the low and the high half.
    pub netns: [u32; 2],
    /// The sender's address.
    pub sender: crate::Address,
    /// The server's port, host byte order.
    pub port: u16,
    /// Always zero.
    pub padding: u16,
}

/// Why a connection was refused. Numbers are part of the events' layout; 0 stands for none.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Nothing trusts the sender.
    Untrusted = 1,
    /// The connection does not begin with a PROXY header, or ended before one came.
    NoHeader = 2,
    /// It begins with an invalid header.
    Invalid = 3,
    /// The header did not come in one segment, or is longer than one on Ethernet.
    Split = 4,
    /// There was no room to remember the connection.
    Full = 5,
    /// A policy denies the client.
    Denied = 6,
    /// The application's socket cannot express the client's address.
    Inexpressible = 7,
    /// The header came when the server had given the handshake up.
    Late = 8,
}

impl Refusal {
    /// Every reason, in the order of the numbers.
    pub const ALL: [Self; 8] = [
        Self::Untrusted,
        Self::NoHeader,
        Self::Invalid,
        Self::Split,
        Self::Full,
        Self::Denied,
        Self::Inexpressible,
        Self::Late,
    ];

    /// The word for it in the access log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::NoHeader => "no_header",
            Self::Invalid => "invalid_header",
            Self::Split => "split_header",
            Self::Full => "full",
            Self::Denied => "denied",
            Self::Inexpressible => "inexpressible",
            Self::Late => "late_header",
        }
    }

    /// The number of the reason why not, or 0: all that a BPF function with a stack of its own can return.
    #[inline(always)]
    pub fn number(outcome: Result<(), Self>) -> u32 {
        match outcome {
            Ok(()) => 0,
            Err(refusal) => refusal as u32,
        }
    }

    /// The reason with this number.
    pub fn from_u32(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|r| *r as u32 == number)
    }
}

impl From<proxy::Reason> for Refusal {
    #[inline(always)]
    fn from(reason: proxy::Reason) -> Self {
        match reason {
            proxy::Reason::NoHeader => Self::NoHeader,
            _ => Self::Invalid,
        }
    }
}

const _: () = {
    assert!(size_of::<Page>() == 16 && size_of::<PageVersions>() == 2048);
    assert!(PAGES as usize * PAGE == 1 << 16);
    assert!(size_of::<Handshake>() == 12 && size_of::<Habit>() == 28);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_the_versions_that_were_set_last() {
        let number = |port| Page::of(7, 2, port).number;
        assert_eq!([0, 0xfff, 0x1000, 0xffff].map(number), [0, 0, 1, 15]);
        let both = Versions(Versions::V1.0 | Versions::V2.0);
        let mut page = PageVersions::NONE;
        (0x1000..0x2000).for_each(|port| page.set(port, both));
        page.set(0x1020, Versions::V2);
        page.set(0x1fff, Versions::V1);
        for port in 0x1000..0x2000 {
            let expected = match port {
                0x1020 => Versions::V2,
                0x1fff => Versions::V1,
                _ => both,
            };
            assert_eq!(page.of(port), expected, "{port:x}");
        }
        let mut later = page;
        later.set(0x1020, Versions::default());
        later.set(0x1021, Versions::V1);
        assert!(page.without(&later, 1).eq([0x1020]));
        assert!(later.without(&page, 1).next().is_none());
    }
}
