//! Applications: servers of our own that report whom they see, and unmodified ones.

pub mod postgresql;
pub mod report;
pub mod sshd;
pub mod uring;
pub mod web;
