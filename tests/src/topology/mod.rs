//! Hosts and cables: a sidecar's pod, and a gateway between client and server.

mod clients;
mod gateway;
pub mod istio;
mod sidecar;

pub(crate) use self::clients::client;
pub use self::gateway::Gateway;
pub use self::sidecar::Sidecar;
pub use crate::addresses::Family;
