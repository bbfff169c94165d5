//! What truepeer's BPF programs and its agent agree on: the records of the shared maps, one module a verb,
//! and the codecs that both sides read and write the wire with.
//!
//! `no_std` and free of dependencies, so that the same code runs in the kernel, in unit tests and
//! under Miri. Every type that crosses the border to the kernel is `repr(C)` with explicit padding,
//! and its size and offsets are asserted at compile time for both targets.

#![no_std]

pub mod address;
pub mod affinity;
pub mod claim;
pub mod counter;
pub mod event;
pub mod fast_open;
pub mod guard;
pub mod kernel;
pub mod local;
pub mod names;
pub mod node;
pub mod options;
pub mod origin;
pub mod ports;
pub mod proxy;
pub mod siphash;
pub mod steer;
pub mod tag;
pub mod tcp;
pub mod toa;
pub mod trust;
pub mod unwrap;
mod verifier;

pub use address::{Address, Endpoint};
pub use claim::{Claim, Connection, Syn};
pub use counter::Counter;
pub use event::Closed;
pub use origin::{Evidence, Origin, Process};
pub use steer::{Listener, ListenerKey, Mark, Namespace, Range};
