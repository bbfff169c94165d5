//! A container runtime's side of CNI, with the reference plugins and truepeer's binary among them.

mod node;
mod plugins;
mod serving;

pub use self::node::{IFNAME, Node, Pod};
pub use self::plugins::{Failure, Runtime, address, code, run};
pub(crate) use self::plugins::{PLUGINS, ipam};
pub use self::serving::{
    APPLICATION, Serving, all_direct, all_through_proxy, nothing_left, sidecars, targets,
};
