//! unwrap: the kernel takes PROXY headers off the stream, with no proxy.

mod chain;
mod elsewhere;
mod fast_open;
mod forward;
mod guests;
mod header;
mod inexpressible;
mod integrity;
mod late;
mod refused;
mod restart;
mod segments;
mod senders;
mod servers;
mod stage;
mod tlvs;
mod tunnel;
mod versions;
mod walk;
