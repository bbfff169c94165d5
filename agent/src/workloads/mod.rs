//! What runs on this node: the pods that the CNI plugin reported, and the containers that the runtimes' files describe.

pub mod annotations;
pub mod containers;
pub mod pods;
mod workload;

pub use self::workload::{PodName, Sandbox, Workload};
