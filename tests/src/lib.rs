//! Topologies, real proxies and servers as values that clean up after themselves.
//!
//! A scenario in `tests/*/` runs inside [`host::scenario`], which fails when anything is left on the host afterwards.
//! It lays out namespaces ([`topology`], [`cluster`]), starts servers, proxies and the agent ([`servers`], [`proxies`],
//! [`agent`]), connects to them ([`clients`]), and waits for what has to happen ([`wait`]). `tests/README.md` shows how.

pub mod agent;
pub mod clients;
pub mod cluster;
pub mod host;
pub mod proxies;
pub mod roles;
pub mod servers;
pub mod table;
pub mod topology;
pub mod wait;
