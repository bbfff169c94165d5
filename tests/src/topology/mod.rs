//! Hosts and cables: a sidecar's pod, a gateway between client and server, and two machines.

mod clients;
mod gateway;
pub mod istio;
mod pair;
mod sidecar;

pub(crate) use self::clients::client;
pub use self::gateway::Gateway;
pub use self::pair::Pair;
pub use self::sidecar::Sidecar;
pub use crate::addresses::Family;
