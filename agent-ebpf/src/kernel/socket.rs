//! Sockets that tc programs look up.

use agent_common::{Counter, Endpoint};
use aya_ebpf::{
    bindings::{
        bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
        tcphdr,
    },
    helpers::generated::{
        bpf_sk_assign, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie,
    },
    programs::TcContext,
};
use aya_log_ebpf::debug;
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::{counters::count, packet::Segment};

/// TCP states (`enum` of include/net/tcp_states.h, UAPI by `BPF_TCP_*`).
pub(crate) const TCP_TIME_WAIT: u32 = 6;
pub(crate) const TCP_LISTEN: u32 = 10;
/// A handshake that the other end has not completed.
pub(crate) const TCP_NEW_SYN_RECV: u32 = 12;
/// Those from ESTABLISHED on, a bit each: FIN_WAIT1 and 2, CLOSE_WAIT, LAST_ACK, CLOSING.
pub(crate) const LIVE: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// The namespace of the packet's device (`BPF_F_CURRENT_NETNS`, -1).
const CURRENT_NETNS: u64 = u64::MAX;

/// A socket that a lookup found, released when dropped.
pub(crate) struct Socket(*mut bpf_sock);

impl Drop for Socket {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `lookup` hands out non-null sockets only, each dropped once.
        unsafe { bpf_sk_release(self.0.cast()) };
    }
}

#[inline(always)]
fn tuple(ends: bpf_sock_tuple__bindgen_ty_1) -> bpf_sock_tuple {
    bpf_sock_tuple {
        __bindgen_anon_1: ends,
    }
}

impl Socket {
    #[inline(always)]
    pub(crate) fn lookup(ctx: &TcContext, tuple: &bpf_sock_tuple, size: u32) -> Option<Self> {
        let tuple = core::ptr::from_ref(tuple).cast_mut();
        // SAFETY: the tuple is at least `size` long, and only read.
        let sk = unsafe { bpf_skc_lookup_tcp(ctx.skb.skb.cast(), tuple, size, CURRENT_NETNS, 0) };
        if sk.is_null() { None } else { Some(Self(sk)) }
    }

    /// The socket between two ends, as packets from `source` name them.
    #[inline(always)]
    pub(crate) fn between(
        ctx: &TcContext,
        source: Endpoint,
        destination: Endpoint,
    ) -> Option<Self> {
        let (s, d) = (source.address.0, destination.address.0);
        let (sport, dport) = (source.port.to_be(), destination.port.to_be());
        if source.address.is_v4() {
            let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: s[3],
                daddr: d[3],
                sport,
                dport,
            };
            let size = size_of_val(&ipv4) as u32;
            Self::lookup(ctx, &tuple(bpf_sock_tuple__bindgen_ty_1 { ipv4 }), size)
        } else {
            let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: s,
                daddr: d,
                sport,
                dport,
            };
            let size = size_of_val(&ipv6) as u32;
            Self::lookup(ctx, &tuple(bpf_sock_tuple__bindgen_ty_1 { ipv6 }), size)
        }
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> u32 {
        // SAFETY: non-null; the verifier translates the access.
        unsafe { (*self.0).state }
    }

    /// Whether it listens.
    #[inline(always)]
    pub(crate) fn listens(&self) -> bool {
        self.state() == TCP_LISTEN
    }

    #[inline(always)]
    pub(crate) fn assign(&self, ctx: &TcContext) -> bool {
        // SAFETY: a socket that this program holds a reference to.
        let error = unsafe { bpf_sk_assign(ctx.skb.skb.cast(), self.0.cast(), 0) };
        if error != 0 {
            count(Counter::AssignFailed);
            debug!(ctx, "a socket could not be assigned: error {}", error);
        }
        error == 0
    }

    /// Whether the segment is the ACK of a SYN cookie that this listener sent. Segments of connections
    /// that went on without the proxy are not, and stay where they are.
    #[inline(always)]
    pub(crate) fn sent_cookie(&self, segment: &Segment) -> bool {
        let length = if segment.v6 {
            Ipv6Hdr::LEN
        } else {
            Ipv4Hdr::LEN
        };
        // SAFETY: `packet::read` checked that both headers lie in the packet.
        unsafe {
            bpf_tcp_check_syncookie(
                self.0.cast(),
                segment.ip.cast_mut().cast(),
                length as u32,
                segment.tcp.cast_mut().cast::<tcphdr>(),
                TcpHdr::LEN as u32,
            ) == 0
        }
    }
}
