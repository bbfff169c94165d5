//! learn: the origin of a connection is known by its packets, a trusted bind or TOA, and never wrongly.

mod bind;
mod exact;
mod forged;
mod forwarded;
mod inexpressible;
mod keepalive;
mod options;
mod signed;
mod signed_hosts;
mod stage;
mod toa;
