//! steer: connections reach a local proxy without NAT, and what a proxy spoofs comes back to it.

mod affinity;
mod edges;
mod gateway;
mod range;
mod sidecar;
