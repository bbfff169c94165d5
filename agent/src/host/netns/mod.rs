//! Network namespaces: how to enter one, and its interfaces.

mod interfaces;
mod namespace;
mod watch;

pub use self::{
    interfaces::{Device, Framing, Interface, Links, is_interface_name},
    namespace::{LOOPBACK, Netns, boot_id, cookie_of},
};
