//! truepeer as a CNI plugin.

pub mod install;
