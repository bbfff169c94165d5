//! The load matrix: what must work on every kernel that users run, in two minutes. `cargo xtask test --kernel` runs it
//! in virtual machines.
//!
//! Each test is about one section of the configuration, alone, so that a kernel that refuses one of them is still seen
//! to serve the others.

mod programs;
mod sections;
mod together;
