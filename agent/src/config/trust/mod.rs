//! The sections `[[trust]]`: who may speak for a client.

mod former;
mod local_source;
mod read;
mod rule;
mod senders;

pub(super) use self::{
    former::refuse,
    read::{KEYS, LocatedTrust, read},
};
pub use self::{
    rule::{Proxy, Rule, Speakers, Trust},
    senders::TrustedSenders,
};
