//! What the kernel shows a program and lets it do: contexts, packets, sockets, routes, the clock and the task.
//! Nothing here decides anything.

pub(crate) mod bytes;
pub(crate) mod clock;
pub(crate) mod context;
mod field;
pub(crate) mod ip;
pub(crate) mod link;
pub(crate) mod opening;
pub(crate) mod packet;
pub(crate) mod rewrite;
pub(crate) mod route;
pub(crate) mod sockaddr;
pub(crate) mod socket;
pub(crate) mod syn_cookie;
pub(crate) mod syscall;
pub(crate) mod task;
pub(crate) mod tcp;
pub(crate) mod uapi;
