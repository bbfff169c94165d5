//! The agent under test.

mod api;
mod config;
mod doctor;
mod maps;
mod queries;
pub mod records;
mod running;
mod speakers;
pub mod spoilt;
pub mod taken;
pub mod version;

pub use self::api::{Peer, Peers};
pub use self::config::{
    Carry, CarryNode, CarryToa, Config, Policy, Relay, Reveal, Settings, Steer, Toa, Trust, Unwrap,
};
pub use self::doctor::{Check, Visit};
pub use self::maps::{Entries, Maps};
pub use self::running::{Agent, binary, truepeer};
pub use self::speakers::{believing, telling};
