//! TCP sockets of a network namespace, as the kernel lists them through `sock_diag`.

mod connections;
mod diag;
mod listeners;
#[cfg(test)]
mod tests;

pub use self::{
    connections::{SocketInfo, Traffic, abort, connections, cookie, exist, half_open, traffic},
    listeners::{ListenerInfo, listeners},
};
