//! Pods as a container runtime reported them to the CNI plugin.
//!
//! The plugin writes a file for each network interface of a pod ([`Directory`]). These files are the truth: the agent
//! puts in place what they ask for, and keeps what it serves in [`Pods`].

mod attachment;
mod directory;
mod registry;
mod request;

pub use self::{
    attachment::{Attachment, Id, Sections, rules},
    directory::Directory,
    registry::Pods,
    request::{Action, PodError, PodRequest},
};
