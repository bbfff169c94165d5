//! unwrap: the kernel takes PROXY headers off the stream, with no proxy.

mod chain;
mod forward;
mod header;
mod inexpressible;
mod integrity;
mod refused;
mod restart;
mod segments;
mod senders;
mod servers;
mod stage;
mod tlvs;
mod versions;
