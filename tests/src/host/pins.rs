//! Where the agents of this crate pin their data paths.

/// Where BPF objects are pinned.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// The prefix of every directory of pins that this crate makes; the id of the process that made it follows.
pub(crate) const PINS: &str = "truepeer-";
