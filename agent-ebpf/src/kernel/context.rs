//! What the contexts of packets and of TCP's events say.

use core::ptr::read_volatile;

use agent_common::{Address, Endpoint, Namespace, tcp::Header};
use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, bpf_sk_lookup, bpf_sock, bpf_sock_ops},
    cty::c_void,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::{
        SkBuffContext, SkLookupContext, SockAddrContext, SockContext, SockOpsContext,
        SockoptContext, TcContext,
    },
};

use network_types::tcp::TcpHdr;

use super::{
    field::{field, field_alone, non_null},
    tcp::{FLAGS, Tcp},
    uapi::{AF_INET, VLAN_ID},
};
use crate::maps::{NAMESPACES, Replaced as _};

/// A context with a packet.
pub(crate) trait Skb {
    fn skb(&self) -> *mut __sk_buff;

    /// The interface by which the packet comes in or goes out.
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        field!(self.skb() => ifindex)
    }

    /// The interface by which the packet came to IP; 0: a socket sends it.
    #[inline(always)]
    fn came_by(&self) -> u32 {
        field!(self.skb() => ingress_ifindex)
    }

    /// For whom a frame is that comes in: one of `PACKET_*`.
    #[inline(always)]
    fn packet_type(&self) -> u32 {
        field!(self.skb() => pkt_type)
    }

    /// Whether the packet has a VLAN tag by which it belongs to another interface. The kernel ignores a tag whose VLAN
    /// id is 0, which has a priority only.
    #[inline(always)]
    fn is_of_vlan(&self) -> bool {
        let (is_tagged, tag) = (
            field_alone!(self.skb() => vlan_present),
            field_alone!(self.skb() => vlan_tci),
        );
        is_tagged != 0 && tag & VLAN_ID != 0
    }

    /// The protocol of the packet as the kernel knows it: an EtherType in network byte order.
    #[inline(always)]
    fn protocol(&self) -> u16 {
        field!(self.skb() => protocol) as u16
    }

    /// The packet's mark.
    #[inline(always)]
    fn mark(&self) -> u32 {
        field!(self.skb() => mark)
    }

    /// The socket that sends or receives the packet.
    #[inline(always)]
    fn socket(&self) -> Option<*mut bpf_sock> {
        non_null(field!(self.skb() => __bindgen_anon_2.sk))
    }

    /// The own end of that socket, which is of IPv6 or of IPv4.
    #[inline(always)]
    fn socket_end(&self, is_v6: bool) -> Option<Endpoint> {
        let sk = self.socket()?;
        let address = if is_v6 {
            Address::v6(field_alone!(sk => src_ip6))
        } else {
            Address::v4(field_alone!(sk => src_ip4))
        };
        Some(Endpoint::new(address, field_alone!(sk => src_port) as u16))
    }

    /// The state of that socket: one of `BPF_TCP_*`.
    #[inline(always)]
    fn socket_state(&self) -> Option<u32> {
        self.socket().map(|sk| field!(sk => state))
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

/// A context whose socket has a cookie.
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

/// What concerns a socket in a network namespace.
pub(crate) trait InNetns: EbpfContext {
    /// The cookie of the socket's network namespace.
    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: the context is valid while the program runs, and the helper takes it (sockops and `cgroup/setsockopt` since
        // Linux 5.15).
        unsafe { bpf_get_netns_cookie(self.as_ptr()) }
    }
}

impl InNetns for SockOpsContext {}
impl InNetns for SockoptContext {}
impl InNetns for SockAddrContext {}

/// What happens to a TCP socket.
pub(crate) trait SockOps: InNetns {
    fn ops(&self) -> *mut bpf_sock_ops;

    /// Asks for further calls about the socket: `BPF_SOCK_OPS_*_CB_FLAG`.
    fn call_for(&self, flags: u32);

    /// The cookie of the socket's network namespace and what is to be done there; `None` if that is nothing.
    #[inline(always)]
    fn namespace(&self) -> Option<(u64, &'static Namespace)> {
        let netns = self.netns();
        Some((netns, NAMESPACES.look_up(netns)?))
    }

    /// The socket, as helpers take it.
    #[inline(always)]
    fn socket(&self) -> Option<*mut c_void> {
        non_null(field!(self.ops() => __bindgen_anon_2.sk)).map(<*mut _>::cast)
    }

    /// The socket's mark.
    #[inline(always)]
    fn mark(&self) -> Option<u32> {
        let sk = non_null(field!(self.ops() => __bindgen_anon_2.sk));
        sk.map(|sk| field!(sk => mark))
    }

    /// The socket's own end.
    #[inline(always)]
    fn local(&self) -> Endpoint {
        let ops = self.ops();
        let v4 = field_alone!(ops => local_ip4);
        let v6 = field_alone!(ops => local_ip6);
        // The context has the local port in host byte order, the remote one in network order.
        let port = field_alone!(ops => local_port);
        Endpoint::new(of_family(field!(ops => family), v4, v6), port as u16)
    }

    /// The socket's other end.
    #[inline(always)]
    fn remote(&self) -> Endpoint {
        let ops = self.ops();
        let v4 = field_alone!(ops => remote_ip4);
        let v6 = field_alone!(ops => remote_ip6);
        let port = u32::from_be(field_alone!(ops => remote_port));
        Endpoint::new(of_family(field!(ops => family), v4, v6), port as u16)
    }

    /// RCV.NXT (RFC 9293): the sequence number of the byte that is expected next.
    #[inline(always)]
    fn rcv_nxt(&self) -> u32 {
        field!(self.ops() => rcv_nxt)
    }

    /// SND.UNA: the sequence number of the first unacknowledged byte. While a SYN is being sent, that is the
    /// SYN's.
    #[inline(always)]
    fn snd_una(&self) -> u32 {
        field!(self.ops() => snd_una)
    }

    /// SND.NXT: the sequence number of the byte that is sent next.
    #[inline(always)]
    fn snd_nxt(&self) -> u32 {
        field!(self.ops() => snd_nxt)
    }

    /// How many bytes came in; a FIN counts as one.
    #[inline(always)]
    fn bytes_received(&self) -> u64 {
        field!(self.ops() => bytes_received)
    }

    /// How many bytes the other end acknowledged; a FIN counts as one.
    #[inline(always)]
    fn bytes_acked(&self) -> u64 {
        field!(self.ops() => bytes_acked)
    }

    /// Copies the TCP header of the segment that the call is about, to `header`, which is to be zeros. `false` if the kernel does not show it.
    #[inline(always)]
    fn copy_header(&self, header: &mut Header) -> bool {
        let start = field!(self.ops() => __bindgen_anon_3.skb_data) as usize;
        let end = field!(self.ops() => __bindgen_anon_4.skb_data_end) as usize;
        for (n, word) in header.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let at = start + 4 * n;
            if at + 4 > end {
                break;
            }
            // SAFETY: the word lies before the segment's end; all that aligned headers have is aligned.
            *word = unsafe { read_volatile(at as *const [u8; 4]) };
        }
        header[FLAGS] == self.tcp_flags()
    }

    /// The sequence numbers of the first byte of the segment that the call is about, and of what follows its payload: its FIN, if
    /// it has one. `None` if the kernel does not show it.
    #[inline(always)]
    fn segment(&self) -> Option<(u32, u32)> {
        let start = field!(self.ops() => __bindgen_anon_3.skb_data) as usize;
        let end = field!(self.ops() => __bindgen_anon_4.skb_data_end) as usize;
        if start + TcpHdr::LEN > end {
            return None;
        }
        // SAFETY: a header without options lies before the segment's end; all that headers have is aligned.
        let header = unsafe { read_volatile(start as *const [u8; TcpHdr::LEN]) };
        let Tcp {
            sequence, length, ..
        } = Tcp::new(&header);
        let all = field!(self.ops() => skb_len);
        let payload = all.saturating_sub(length as u32);
        Some((sequence, sequence.wrapping_add(payload)))
    }

    /// The flags of the TCP header that the call is about.
    #[inline(always)]
    fn tcp_flags(&self) -> u8 {
        field!(self.ops() => skb_tcp_flags) as u8
    }
}

impl SockOps for SockOpsContext {
    #[inline(always)]
    fn ops(&self) -> *mut bpf_sock_ops {
        self.ops
    }

    #[inline(always)]
    fn call_for(&self, flags: u32) {
        let _ = self.set_cb_flags((self.cb_flags() | flags) as i32);
    }
}

/// A packet for which the kernel looks for a listener.
pub(crate) trait SkLookup {
    fn lookup(&self) -> *mut bpf_sk_lookup;

    /// The protocol (IANA).
    #[inline(always)]
    fn protocol(&self) -> u32 {
        field!(self.lookup() => protocol)
    }

    /// The address family, `AF_INET` or `AF_INET6`.
    #[inline(always)]
    fn family(&self) -> u32 {
        field!(self.lookup() => family)
    }

    /// The interface by which the packet came in.
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        field!(self.lookup() => ingress_ifindex)
    }

    /// The port that the packet goes to, host byte order.
    #[inline(always)]
    fn local_port(&self) -> u16 {
        field!(self.lookup() => local_port) as u16
    }

    /// Where the packet comes from.
    #[inline(always)]
    fn source(&self) -> Endpoint {
        let lookup = self.lookup();
        let v4 = field_alone!(lookup => remote_ip4);
        let v6 = field_alone!(lookup => remote_ip6);
        let port = u16::from_be(field!(lookup => remote_port));
        Endpoint::new(of_family(self.family(), v4, v6), port)
    }

    /// Where the packet goes to.
    #[inline(always)]
    fn destination(&self) -> Endpoint {
        let lookup = self.lookup();
        let v4 = field_alone!(lookup => local_ip4);
        let v6 = field_alone!(lookup => local_ip6);
        Endpoint::new(of_family(self.family(), v4, v6), self.local_port())
    }
}

impl SkLookup for SkLookupContext {
    #[inline(always)]
    fn lookup(&self) -> *mut bpf_sk_lookup {
        self.lookup
    }
}

#[inline(always)]
fn of_family(family: u32, v4: u32, v6: [u32; 4]) -> Address {
    if family == AF_INET {
        Address::v4(v4)
    } else {
        Address::v6(v6)
    }
}
