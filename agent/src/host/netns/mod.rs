//! Network namespaces: how to enter one, and its interfaces.

mod interfaces;
mod links;
mod namespace;
mod watch;

pub use self::{
    interfaces::{Device, Framing, is_interface_name},
    links::{Interface, Links},
    namespace::{LOOPBACK, Netns, boot_id, cookie_of},
};
