//! What runs on this node: the pods that the CNI plugin was told of, and the containers that the runtimes' files name.

pub mod containers;
pub mod pods;
