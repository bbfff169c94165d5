//! unwrap: ports on which a PROXY header is taken off the stream, and their handshakes.

use crate::proxy;

/// Key of the `UNWRAPS` map: a port whose connections begin with a PROXY header.
///
/// Layout (16 bytes): netns 0..8, ifindex 8..12, port 12..14, padding 14..16.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UnwrapPort {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The interface by which connections come in.
    pub ifindex: u32,
    /// The server's port, host byte order.
    pub port: u16,
    /// Always zero.
    pub padding: u16,
}

/// Value of the `UNWRAPS` map: which versions of the header are taken, and on what terms.
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

    /// Whether `version` is among them.
    #[inline(always)]
    pub const fn has(self, version: Self) -> bool {
        self.0 & version.0 != 0
    }
}

/// A connection whose server has not established it yet: value of the `UNWRAPPING` map.
///
/// Layout (12 bytes): isn 0..4, rule 4..8, shift 8..10, is_told 10..12.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The sender's initial sequence number, host byte order.
    pub isn: u32,
    /// [`crate::origin::rule_id`] of the rule that believes the sender's header.
    pub rule: u32,
    /// By how much the server's sequence number is higher: the expected length of the header.
    pub shift: u16,
    /// 1 if TOA or this node told who sends the header; `HANDOVERS` has it, as a pending claim. Else 0.
    pub is_told: u16,
}

impl Handshake {
    /// The sequence number of the first byte that the server expects.
    #[inline(always)]
    pub const fn first(&self) -> u32 {
        self.isn.wrapping_add(self.shift as u32).wrapping_add(1)
    }
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
}

impl Refusal {
    /// Every reason, in the order of the numbers.
    pub const ALL: [Self; 7] = [
        Self::Untrusted,
        Self::NoHeader,
        Self::Invalid,
        Self::Split,
        Self::Full,
        Self::Denied,
        Self::Inexpressible,
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
    assert!(size_of::<UnwrapPort>() == 16 && size_of::<Versions>() == 4);
    assert!(size_of::<Handshake>() == 12 && size_of::<Habit>() == 28);
};
