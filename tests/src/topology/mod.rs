//! Hosts and cables: a sidecar's pod, and a gateway between client and server.

pub mod balancer;
mod family;
mod gateway;
mod sidecar;

pub use self::family::Family;
pub(crate) use self::family::client;
pub use self::gateway::Gateway;
pub use self::sidecar::Sidecar;
