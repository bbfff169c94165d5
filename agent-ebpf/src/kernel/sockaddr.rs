//! Socket addresses as system calls and helpers take them.

use agent_common::Address;

use super::uapi::{AF_INET, AF_INET6};

/// The address by which a bind leaves the choice to the kernel: `INADDR_ANY`, `in6addr_any`.
pub(crate) const ANY: Address = Address([0; 4]);

/// `struct sockaddr_in`: address and port in network byte order.
#[repr(C)]
pub(crate) struct SockAddr4 {
    family: u16,
    port: u16,
    address: u32,
    zero: [u32; 2],
}

impl SockAddr4 {
    #[inline(always)]
    pub(crate) const fn new(address: u32, port: u16) -> Self {
        Self {
            family: AF_INET as u16,
            port,
            address,
            zero: [0; 2],
        }
    }
}

/// `struct sockaddr_in6`: address and port in network byte order.
#[repr(C)]
pub(crate) struct SockAddr6 {
    family: u16,
    port: u16,
    flow: u32,
    address: [u32; 4],
    scope: u32,
}

impl SockAddr6 {
    #[inline(always)]
    pub(crate) const fn new(address: [u32; 4], port: u16) -> Self {
        Self {
            family: AF_INET6 as u16,
            port,
            flow: 0,
            address,
            scope: 0,
        }
    }
}
