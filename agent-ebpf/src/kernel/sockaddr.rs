//! Socket addresses as system calls and helpers take them.

use agent_common::Address;
use aya_ebpf::{bindings::sockaddr, helpers::generated::bpf_bind, programs::SockAddrContext};

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

/// Binds a socket that is about to connect. If the port is 0, it is bound to the address alone, and the kernel chooses the port.
/// `false` if it cannot be bound: then it is bound to no address, unless it has a port already.
#[inline(always)]
pub(crate) fn bind<T>(ctx: &SockAddrContext, mut address: T) -> bool {
    let address: *mut sockaddr = core::ptr::from_mut(&mut address).cast();
    // SAFETY: the helper reads as many bytes as it is told, which are the address's.
    unsafe { bpf_bind(ctx.sock_addr, address, size_of::<T>() as i32) == 0 }
}
