//! The kernel's side of truepeer: loads the BPF programs, attaches them and fills their maps. The only
//! room that imports aya.
//!
//! [`Datapath`] is told what to do by one call for the whole host, [`Datapath::govern`], and for each network
//! namespace by one call a verb. Each verb has a file, named as its file in the BPF crate.

mod adopt;
mod bpffs;
mod carry;
mod cgroups;
mod claims;
mod events;
mod filters;
mod guard;
mod host_rules;
mod interfaces;
mod jobs;
mod layout;
mod leaks;
mod learn;
mod links;
mod local;
mod maps;
mod object;
#[cfg(test)]
mod old_verifiers;
mod ownership;
mod pins;
mod programs;
mod remove;
mod reveal;
mod running;
mod status;
mod steer;
mod streams;
mod sys;
mod unwrap;

pub use events::{Diagnostics, Events};
pub use host_rules::HostRules;
pub use interfaces::{Missing, Packets};
pub use jobs::Job;
pub use object::Datapath;
pub use ownership::{others, stranded};
pub use pins::Pins;
pub use programs::{Cost, Purpose, Section, try_all};
pub use remove::remove;
pub use running::{Running, Way};
pub use steer::end_steered;
pub use streams::Full;
pub use unwrap::{Orphans, Unwrapped};
