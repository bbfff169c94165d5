//! What the contexts of system calls on sockets say.

use core::ptr::write_volatile;

use agent_common::{Address, kernel::Version};
use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr, bpf_sockopt},
    cty::c_void,
    helpers::generated::bpf_set_retval,
    programs::{SockAddrContext, SockoptContext},
};

use super::{
    field::{field, field_alone, non_null},
    sockaddr::ANY,
    uapi::REJECT,
};
use crate::maps::kernel_has;

/// A system call that takes or returns a socket address, which is the user's.
pub(crate) trait SockAddr {
    fn sock_addr(&self) -> *mut bpf_sock_addr;

    /// The socket's type: `SOCK_STREAM` and others.
    #[inline(always)]
    fn socket_type(&self) -> u32 {
        field!(self.sock_addr() => type_)
    }

    /// The socket, as helpers take it.
    #[inline(always)]
    fn socket(&self) -> Option<*mut c_void> {
        non_null(field!(self.sock_addr() => __bindgen_anon_1.sk)).map(<*mut _>::cast)
    }

    /// The socket's mark.
    #[inline(always)]
    fn mark(&self) -> Option<u32> {
        let sk = non_null(field!(self.sock_addr() => __bindgen_anon_1.sk));
        sk.map(|sk| field!(sk => mark))
    }

    /// The address that an AF_INET socket is bound to without a port; `None` if to none, or with one.
    #[inline(always)]
    fn chosen_v4(&self) -> Option<Address> {
        let sk = non_null(field!(self.sock_addr() => __bindgen_anon_1.sk))?;
        let address = field_alone!(sk => src_ip4);
        (field_alone!(sk => src_port) == 0 && address != 0).then(|| Address::v4(address))
    }

    /// The address that an AF_INET6 socket is bound to without a port; `None` if to none, or with one.
    #[inline(always)]
    fn chosen_v6(&self) -> Option<Address> {
        let sk = non_null(field!(self.sock_addr() => __bindgen_anon_1.sk))?;
        let words = [0, 1, 2, 3].map(|word| field_alone!(sk => src_ip6[word]));
        let address = Address::v6(words);
        (field_alone!(sk => src_port) == 0 && address != ANY).then_some(address)
    }

    /// The address of an AF_INET socket's call.
    #[inline(always)]
    fn user_v4(&self) -> Address {
        Address::v4(field!(self.sock_addr() => user_ip4))
    }

    /// The address of an AF_INET6 socket's call.
    #[inline(always)]
    fn user_v6(&self) -> Address {
        Address::v6(field!(self.sock_addr() => user_ip6))
    }

    /// The port, host byte order.
    #[inline(always)]
    fn user_port(&self) -> u16 {
        u16::from_be(field!(self.sock_addr() => user_port) as u16)
    }

    /// Replaces the address of an AF_INET socket's call by an IPv4 address.
    #[inline(always)]
    fn set_user_v4(&self, address: Address) {
        field!(self.sock_addr() => user_ip4 = address.0[3]);
    }

    /// Replaces the address of an AF_INET6 socket's call.
    #[inline(always)]
    fn set_user_v6(&self, address: Address) {
        for (i, word) in address.0.into_iter().enumerate() {
            // SAFETY: as in `field`. The verifier takes four writes, at fixed offsets.
            unsafe { write_volatile(&raw mut (*self.sock_addr()).user_ip6[i], word) };
        }
    }

    /// The answer by which the call fails with this error. Before Linux 6.1 it is always EPERM.
    #[inline(always)]
    fn fail(&self, error: i32) -> i32 {
        if kernel_has(Version::CONNECT_HAS_ERRORS) {
            // SAFETY: a helper that takes any number.
            unsafe { bpf_set_retval(-error) };
        }
        REJECT
    }

    /// Replaces the port, which is in host byte order.
    #[inline(always)]
    fn set_user_port(&self, port: u16) {
        field!(self.sock_addr() => user_port = port.to_be().into());
    }
}

impl SockAddr for SockAddrContext {
    #[inline(always)]
    fn sock_addr(&self) -> *mut bpf_sock_addr {
        self.sock_addr
    }
}

/// A call of `getsockopt()` or `setsockopt()`.
pub(crate) trait Sockopt {
    fn sockopt(&self) -> *mut bpf_sockopt;

    /// The option's level.
    #[inline(always)]
    fn level(&self) -> i32 {
        field!(self.sockopt() => level)
    }

    /// The option.
    #[inline(always)]
    fn optname(&self) -> i32 {
        field!(self.sockopt() => optname)
    }

    /// The socket.
    #[inline(always)]
    fn socket(&self) -> Option<*mut bpf_sock> {
        non_null(field!(self.sockopt() => __bindgen_anon_1.sk))
    }

    /// The socket's type: `SOCK_STREAM` and others.
    #[inline(always)]
    fn socket_type(&self) -> Option<u32> {
        self.socket().map(|sk| field!(sk => type_))
    }

    /// The option's value, if the caller's buffer has room for a `T`.
    #[inline(always)]
    fn optval<T>(&self) -> Option<*mut T> {
        let value = field!(self.sockopt() => __bindgen_anon_2.optval) as usize;
        let end = field!(self.sockopt() => __bindgen_anon_3.optval_end) as usize;
        (value + size_of::<T>() <= end).then_some(value as *mut T)
    }

    /// Sets the length of the value; -1 means that the program has handled a call of `setsockopt()`.
    #[inline(always)]
    fn set_optlen(&self, length: i32) {
        field!(self.sockopt() => optlen = length);
    }

    /// Makes a call of `getsockopt()` succeed.
    #[inline(always)]
    fn succeed(&self) {
        field!(self.sockopt() => retval = 0);
    }
}

impl Sockopt for SockoptContext {
    #[inline(always)]
    fn sockopt(&self) -> *mut bpf_sockopt {
        self.sockopt
    }
}
