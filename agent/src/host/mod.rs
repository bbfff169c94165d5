//! The host as Linux shows it: clocks, files, network namespaces, sockets, cgroups and processes.

pub mod btf;
pub mod cgroup_watch;
pub mod cgroups;
pub mod clock;
pub mod confinement;
pub mod descriptors;
pub mod file;
pub mod inherited;
pub mod kernel;
pub mod netns;
mod proc;
pub mod processes;
pub mod service;
pub mod sockets;
