//! This host, as Linux tells of it: network namespaces, sockets, processes, clocks, files.

pub mod file;
pub mod netns;
pub mod processes;
pub mod sockets;
