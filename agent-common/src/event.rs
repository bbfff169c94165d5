//! What the data path tells the agent.

use crate::{Origin, proxy::block};

/// A connection with an origin has ended, or a connection was refused: a record of the `EVENTS` ring buffer.
///
/// Layout (184 bytes): origin 0..144, cookie 144..152, closed 152..160, received 160..168,
/// sent 168..176, refused 176..180, policy 180..184.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Its origin, as it stood when the socket closed.
    pub origin: Origin,
    /// The socket's cookie.
    pub cookie: u64,
    /// When it closed: nanoseconds of `CLOCK_BOOTTIME`.
    pub closed: u64,
    /// Payload bytes that the socket received from the client's side.
    pub received: u64,
    /// Payload bytes that the other end acknowledged.
    pub sent: u64,
    /// A [`crate::unwrap::Refusal`] as its number; 0 if the connection was not refused. What is refused has
    /// no socket. Of its origin only the ends are known and, if a policy refused it, the client and its
    /// evidence.
    pub refused: u32,
    /// [`crate::origin::rule_id`] of the policy that refused it; 0 if none did.
    pub policy: u32,
}

/// A PROXY header that was taken off and says more than addresses: a record of the `HEADERS` ring buffer,
/// which ends where the header does.
///
/// Layout (2,056 bytes): number 0..8, bytes 8..2056.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// The header's number. No two headers share one, and later ones have higher numbers.
    pub number: u64,
    /// The header as it came. The bytes behind it mean nothing.
    pub bytes: block::Header,
}

const _: () = assert!(core::mem::offset_of!(Header, bytes) == 8);
const _: () = assert!(size_of::<Closed>() == 184 && core::mem::offset_of!(Closed, cookie) == 144);
