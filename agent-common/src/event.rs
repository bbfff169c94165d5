//! What the data path tells the agent.

use crate::Origin;

/// A connection with an origin has ended, or a connection was refused: one record of the `EVENTS` ring
/// buffer.
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
    /// A [`crate::unwrap::Refusal`] as its number; 0: none. What is refused has no socket, and of its
    /// origin only the ends are known; where a policy refused it, the client and its evidence as well.
    pub refused: u32,
    /// [`crate::origin::rule_id`] of the policy that refused it; else 0.
    pub policy: u32,
}

const _: () = assert!(size_of::<Closed>() == 184 && core::mem::offset_of!(Closed, cookie) == 144);
