//! What the contexts of programs say, of which the kernel vouches that they are valid while a program runs.
//!
//! The verifier takes reads and writes of a context's fields only at fixed offsets and in their own size: the volatile
//! ones are not to be merged by the compiler, nor made at a computed offset.

use core::ptr::{read_volatile, write_volatile};

use agent_common::{Address, Connection, Endpoint, Namespace};
use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, bpf_sock},
    cty::c_void,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::{
        SkBuffContext, SkLookupContext, SockAddrContext, SockContext, SockOpsContext,
        SockoptContext, TcContext,
    },
};

use super::uapi::AF_INET;
use crate::maps::{NAMESPACES, Replaced as _};

/// Reads or writes a place in a context.
macro_rules! context {
    ($access:expr) => {
        // SAFETY: the context is valid while the program runs, and the verifier checks the access.
        unsafe { $access }
    };
}

/// A context with a packet.
pub(crate) trait Skb {
    fn skb(&self) -> *mut __sk_buff;

    /// The interface by which the packet comes in or goes out.
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        context!((*self.skb()).ifindex)
    }

    /// Whether the packet has a VLAN tag.
    #[inline(always)]
    fn is_tagged(&self) -> bool {
        context!((*self.skb()).vlan_present) != 0
    }

    /// The packet's mark.
    #[inline(always)]
    fn mark(&self) -> u32 {
        context!((*self.skb()).mark)
    }

    /// The socket that sends the packet, or that gets it.
    #[inline(always)]
    fn socket(&self) -> Option<*mut bpf_sock> {
        let sk = context!((*self.skb()).__bindgen_anon_2.sk);
        (!sk.is_null()).then_some(sk)
    }

    /// The state of that socket: one of `BPF_TCP_*`.
    #[inline(always)]
    fn socket_state(&self) -> Option<u32> {
        self.socket().map(|sk| context!((*sk).state))
    }
}

impl Skb for TcContext {
    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.skb.skb
    }
}

impl Skb for SkBuffContext {
    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.skb.skb
    }
}

/// A context of which the kernel knows the socket's cookie.
pub(crate) trait Cookie: EbpfContext {
    /// The socket's cookie, which no other socket has until the next boot.
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: a helper that takes this context.
        unsafe { bpf_get_socket_cookie(self.as_ptr()) }
    }
}

impl Cookie for SockOpsContext {}
impl Cookie for SockAddrContext {}
impl Cookie for SockContext {}

/// What happens to a TCP socket.
pub(crate) trait SockOps {
    /// The cookie of the socket's network namespace.
    fn netns(&self) -> u64;
    /// The socket, as helpers take it.
    fn socket(&self) -> Option<*mut c_void>;
    /// The socket's mark.
    fn mark(&self) -> Option<u32>;
    /// The socket's own end.
    fn local(&self) -> Endpoint;
    /// The socket's other end.
    fn remote(&self) -> Endpoint;
    /// RCV.NXT (RFC 9293): the sequence number of the byte that is expected next.
    fn rcv_nxt(&self) -> u32;
    /// SND.UNA: the sequence number of the first byte that is not acknowledged; of a SYN that is being sent, its own.
    fn snd_una(&self) -> u32;
    /// SND.NXT: the sequence number of the byte that is sent next.
    fn snd_nxt(&self) -> u32;
    /// How many bytes came in, and how many the other end acknowledged; each counts the FIN.
    fn bytes_received(&self) -> u64;
    fn bytes_acked(&self) -> u64;
    /// The flags of the TCP header that the call is about.
    fn tcp_flags(&self) -> u8;
    /// Asks for further calls about this socket: `BPF_SOCK_OPS_*_CB_FLAG`.
    fn call_for(&self, flags: u32);

    /// The connection whose packets this socket sends.
    #[inline(always)]
    fn outgoing(&self) -> Connection {
        Connection {
            netns: self.netns(),
            source: self.local(),
            destination: self.remote(),
        }
    }

    /// The connection whose packets this socket gets.
    #[inline(always)]
    fn incoming(&self) -> Connection {
        Connection {
            netns: self.netns(),
            source: self.remote(),
            destination: self.local(),
        }
    }

    /// What is to be done in the socket's namespace, and its cookie; `None` where there is nothing to do.
    #[inline(always)]
    fn namespace(&self) -> Option<(u64, &'static Namespace)> {
        let netns = self.netns();
        Some((netns, NAMESPACES.look_up(netns)?))
    }
}

impl SockOps for SockOpsContext {
    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: a helper that takes this context.
        unsafe { bpf_get_netns_cookie(self.as_ptr()) }
    }

    #[inline(always)]
    fn socket(&self) -> Option<*mut c_void> {
        let sk = context!((*self.ops).__bindgen_anon_2.sk);
        (!sk.is_null()).then_some(sk.cast())
    }

    #[inline(always)]
    fn mark(&self) -> Option<u32> {
        let sk = context!((*self.ops).__bindgen_anon_2.sk);
        (!sk.is_null()).then(|| context!((*sk).mark))
    }

    #[inline(always)]
    fn local(&self) -> Endpoint {
        let ops = self.ops;
        let v4 = context!(read_volatile(&raw const (*ops).local_ip4));
        let v6 = context!(read_volatile(&raw const (*ops).local_ip6));
        // The context has the local port in host byte order, the remote one in network order.
        let port = context!(read_volatile(&raw const (*ops).local_port));
        Endpoint::new(address(self.family(), v4, v6), port as u16)
    }

    #[inline(always)]
    fn remote(&self) -> Endpoint {
        let ops = self.ops;
        let v4 = context!(read_volatile(&raw const (*ops).remote_ip4));
        let v6 = context!(read_volatile(&raw const (*ops).remote_ip6));
        let port = context!(read_volatile(&raw const (*ops).remote_port));
        Endpoint::new(address(self.family(), v4, v6), u32::from_be(port) as u16)
    }

    #[inline(always)]
    fn rcv_nxt(&self) -> u32 {
        context!((*self.ops).rcv_nxt)
    }

    #[inline(always)]
    fn snd_una(&self) -> u32 {
        context!((*self.ops).snd_una)
    }

    #[inline(always)]
    fn snd_nxt(&self) -> u32 {
        context!((*self.ops).snd_nxt)
    }

    #[inline(always)]
    fn bytes_received(&self) -> u64 {
        context!((*self.ops).bytes_received)
    }

    #[inline(always)]
    fn bytes_acked(&self) -> u64 {
        context!((*self.ops).bytes_acked)
    }

    #[inline(always)]
    fn tcp_flags(&self) -> u8 {
        context!((*self.ops).skb_tcp_flags) as u8
    }

    #[inline(always)]
    fn call_for(&self, flags: u32) {
        let _ = self.set_cb_flags((self.cb_flags() | flags) as i32);
    }
}

#[inline(always)]
fn address(family: u32, v4: u32, v6: [u32; 4]) -> Address {
    if family == AF_INET {
        Address::v4(v4)
    } else {
        Address::v6(v6)
    }
}

/// A packet for which the kernel looks for a listener.
pub(crate) trait SkLookup {
    /// The protocol (IANA).
    fn protocol(&self) -> u32;
    /// The address family, `AF_INET` or `AF_INET6`.
    fn family(&self) -> u32;
    /// The port that the packet goes to, host byte order.
    fn port(&self) -> u16;
    /// The interface by which it came in.
    fn ifindex(&self) -> u32;
    /// Where it comes from.
    fn source(&self) -> Endpoint;
    /// Where it goes to.
    fn destination(&self) -> Endpoint;
}

impl SkLookup for SkLookupContext {
    #[inline(always)]
    fn protocol(&self) -> u32 {
        context!((*self.lookup).protocol)
    }

    #[inline(always)]
    fn family(&self) -> u32 {
        context!((*self.lookup).family)
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        context!((*self.lookup).local_port) as u16
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        context!((*self.lookup).ingress_ifindex)
    }

    #[inline(always)]
    fn source(&self) -> Endpoint {
        let lookup = self.lookup;
        let v4 = context!(read_volatile(&raw const (*lookup).remote_ip4));
        let v6 = context!(read_volatile(&raw const (*lookup).remote_ip6));
        let port = u16::from_be(context!((*lookup).remote_port));
        Endpoint::new(address(self.family(), v4, v6), port)
    }

    #[inline(always)]
    fn destination(&self) -> Endpoint {
        let lookup = self.lookup;
        let v4 = context!(read_volatile(&raw const (*lookup).local_ip4));
        let v6 = context!(read_volatile(&raw const (*lookup).local_ip6));
        Endpoint::new(address(self.family(), v4, v6), self.port())
    }
}

/// A system call that takes or returns a socket address.
pub(crate) trait SockAddr {
    /// The socket's type: `SOCK_STREAM` and others.
    fn socket_type(&self) -> u32;
    /// The socket, as helpers take it.
    fn socket(&self) -> Option<*mut c_void>;
    /// The address of an AF_INET socket's call.
    fn address_v4(&self) -> Address;
    /// The address of an AF_INET6 socket's call.
    fn address_v6(&self) -> Address;
    /// The port, host byte order.
    fn port(&self) -> u16;
    /// Replaces the address of an AF_INET socket's call, an IPv4 address.
    fn set_address_v4(&self, address: Address);
    /// Replaces the address of an AF_INET6 socket's call.
    fn set_address_v6(&self, address: Address);
    /// Replaces the port, host byte order.
    fn set_port(&self, port: u16);
}

impl SockAddr for SockAddrContext {
    #[inline(always)]
    fn socket_type(&self) -> u32 {
        context!((*self.sock_addr).type_)
    }

    #[inline(always)]
    fn socket(&self) -> Option<*mut c_void> {
        let sk = context!((*self.sock_addr).__bindgen_anon_1.sk);
        (!sk.is_null()).then_some(sk.cast())
    }

    #[inline(always)]
    fn address_v4(&self) -> Address {
        Address::v4(context!((*self.sock_addr).user_ip4))
    }

    #[inline(always)]
    fn address_v6(&self) -> Address {
        Address::v6(context!((*self.sock_addr).user_ip6))
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        u16::from_be(context!((*self.sock_addr).user_port) as u16)
    }

    #[inline(always)]
    fn set_address_v4(&self, address: Address) {
        context!((*self.sock_addr).user_ip4 = address.0[3]);
    }

    #[inline(always)]
    fn set_address_v6(&self, address: Address) {
        for (i, word) in address.0.into_iter().enumerate() {
            context!(write_volatile(&raw mut (*self.sock_addr).user_ip6[i], word));
        }
    }

    #[inline(always)]
    fn set_port(&self, port: u16) {
        context!((*self.sock_addr).user_port = port.to_be().into());
    }
}

/// A call of `getsockopt()` or `setsockopt()`.
pub(crate) trait Sockopt {
    /// The option's level.
    fn level(&self) -> i32;
    /// The option.
    fn name(&self) -> i32;
    /// The socket.
    fn socket(&self) -> Option<*mut bpf_sock>;
    /// The option's value, if the caller's buffer has room for a `T`.
    fn value<T>(&self) -> Option<*mut T>;
    /// Says how long the value is; -1: the program has handled a call of `setsockopt()` (Linux 5.3).
    fn set_length(&self, length: i32);
    /// Has a call of `getsockopt()` succeed (Linux 5.3).
    fn succeed(&self);
}

impl Sockopt for SockoptContext {
    #[inline(always)]
    fn level(&self) -> i32 {
        context!((*self.sockopt).level)
    }

    #[inline(always)]
    fn name(&self) -> i32 {
        context!((*self.sockopt).optname)
    }

    #[inline(always)]
    fn socket(&self) -> Option<*mut bpf_sock> {
        let sk = context!((*self.sockopt).__bindgen_anon_1.sk);
        (!sk.is_null()).then_some(sk)
    }

    #[inline(always)]
    fn value<T>(&self) -> Option<*mut T> {
        let value = context!((*self.sockopt).__bindgen_anon_2.optval) as usize;
        let end = context!((*self.sockopt).__bindgen_anon_3.optval_end) as usize;
        (value + size_of::<T>() <= end).then_some(value as *mut T)
    }

    #[inline(always)]
    fn set_length(&self, length: i32) {
        context!((*self.sockopt).optlen = length);
    }

    #[inline(always)]
    fn succeed(&self) {
        context!((*self.sockopt).retval = 0);
    }
}
