//! Sockets that programs look up.

use agent_common::{Counter, Endpoint};
use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_F_CURRENT_NETNS, BPF_TCP_LISTEN, bpf_sock, bpf_sock_tuple,
        bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as TupleV4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as TupleV6, tcphdr,
    },
    helpers::generated::{
        bpf_sk_assign, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie,
    },
    macros::map,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use super::{
    bytes::{Bytes as _, Linear},
    link,
    tcp::SEQUENCE,
    uapi::AF_INET,
};
use crate::{maps::Scratch, tell::count};

/// Not zero while a program on this CPU looks for a socket. Where there is no connection, the kernel asks `sk_lookup` for the
/// listener, as it does for a packet.
#[map]
static ASKING: Scratch<u32> = Scratch::new();

#[inline(always)]
fn set_asking(is_asking: bool) {
    if let Some(asking) = ASKING.get() {
        *asking = is_asking.into();
    }
}

/// Whether it is a program that looks for a socket, and no packet: that is not counted. What happens on this CPU while a system
/// call that looks for one is interrupted or preempted may be taken for the other.
#[inline(always)]
pub(crate) fn is_asked_by_program() -> bool {
    ASKING.get().is_some_and(|asking| *asking != 0)
}

/// A socket that a lookup found, released when dropped.
pub(crate) struct Socket(*mut bpf_sock);

impl Drop for Socket {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `look_up` hands out non-null sockets only, each dropped once.
        unsafe { bpf_sk_release(self.0.cast()) };
    }
}

impl Socket {
    /// The socket that a packet from `source` to `destination` belongs to, or else the listener at
    /// `destination`.
    #[inline(always)]
    pub(crate) fn between(
        ctx: &impl EbpfContext,
        is_v6: bool,
        source: Endpoint,
        destination: Endpoint,
    ) -> Option<Self> {
        let (from, to) = (source.address.0, destination.address.0);
        let (sport, dport) = (source.port.to_be(), destination.port.to_be());
        if is_v6 {
            let ipv6 = TupleV6 {
                saddr: from,
                daddr: to,
                sport,
                dport,
            };
            let size = size_of_val(&ipv6);
            Self::look_up(ctx, bpf_sock_tuple__bindgen_ty_1 { ipv6 }, size)
        } else {
            let ipv4 = TupleV4 {
                saddr: from[3],
                daddr: to[3],
                sport,
                dport,
            };
            let size = size_of_val(&ipv4);
            Self::look_up(ctx, bpf_sock_tuple__bindgen_ty_1 { ipv4 }, size)
        }
    }

    /// The size of the tuple's variant tells the helper the address family.
    #[inline(always)]
    fn look_up(
        ctx: &impl EbpfContext,
        ends: bpf_sock_tuple__bindgen_ty_1,
        size: usize,
    ) -> Option<Self> {
        let mut tuple = bpf_sock_tuple {
            __bindgen_anon_1: ends,
        };
        // The namespace of the packet's device, or of the socket that makes the call.
        let netns = BPF_F_CURRENT_NETNS as u64;
        set_asking(true);
        // SAFETY: the tuple is at least `size` long, and only read.
        let sk = unsafe { bpf_skc_lookup_tcp(ctx.as_ptr(), &mut tuple, size as u32, netns, 0) };
        set_asking(false);
        if sk.is_null() { None } else { Some(Self(sk)) }
    }

    /// One of `BPF_TCP_*`.
    #[inline(always)]
    pub(crate) fn state(&self) -> u32 {
        // SAFETY: non-null; the verifier translates the access.
        unsafe { (*self.0).state }
    }

    #[inline(always)]
    pub(crate) fn is_listener(&self) -> bool {
        self.state() == BPF_TCP_LISTEN
    }

    /// Whether it is an AF_INET socket, which knows IPv4 addresses only.
    #[inline(always)]
    pub(crate) fn is_v4(&self) -> bool {
        // SAFETY: as for the state.
        let family = unsafe { (*self.0).family };
        family == AF_INET
    }

    /// Makes the kernel deliver the packet to this socket. `false`, which is counted, if it refuses.
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

    /// Whether the segment whose TCP header begins at `offset` would be, with this sequence number, the ACK of a SYN cookie
    /// that this listener sent. Segments of connections that bypassed the proxy are not, and stay where they are.
    #[inline(always)]
    pub(crate) fn sent_cookie(
        &self,
        ctx: &TcContext,
        is_v6: bool,
        offset: usize,
        sequence: u32,
    ) -> bool {
        let packet = Linear(ctx);
        let Some(mut tcp): Option<[u8; TcpHdr::LEN]> = ctx.skb.read(offset) else {
            return false;
        };
        tcp[SEQUENCE..SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        let (ip, length) = if is_v6 {
            let ip = packet.at::<[u8; Ipv6Hdr::LEN]>(link::length());
            (ip.map(<*const _>::cast), Ipv6Hdr::LEN)
        } else {
            let ip = packet.at::<[u8; Ipv4Hdr::LEN]>(link::length());
            (ip.map(<*const _>::cast), Ipv4Hdr::LEN)
        };
        let Some(ip): Option<*const u8> = ip else {
            return false;
        };
        // SAFETY: the headers lie in the packet and on the stack, with the lengths that are passed.
        unsafe {
            bpf_tcp_check_syncookie(
                self.0.cast(),
                ip.cast_mut().cast(),
                length as u32,
                tcp.as_mut_ptr().cast::<tcphdr>(),
                TcpHdr::LEN as u32,
            ) == 0
        }
    }
}
