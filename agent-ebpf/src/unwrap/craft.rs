//! Turns the segment that came in into one without payload.

use agent_common::{Endpoint, tcp::MAX_HEADER};
use aya_ebpf::{
    bindings::BPF_F_RECOMPUTE_CSUM,
    helpers::generated::{bpf_clone_redirect, bpf_csum_diff, bpf_skb_change_tail},
    macros::map,
    programs::TcContext,
};
use network_types::tcp::TcpHdr;

use super::incoming::Incoming;
use crate::{
    kernel::{
        bytes::{copy, write},
        context::Skb as _,
        ip::{SOURCE_V4, SOURCE_V6, TCP, set_length},
        link::{self, swap_macs},
    },
    maps::Scratch,
};

/// A segment without payload.
pub(super) struct Crafted {
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    /// Of the TCP header.
    pub(super) flags: u8,
    /// Whether it goes from the server to the sender; otherwise it goes from the sender to the server.
    pub(super) to_sender: bool,
    /// Whether it keeps the options of the segment that came in.
    pub(super) options: bool,
}

/// The pseudo header that TCP's checksum covers (RFC 9293, 3.1), in network order; after the addresses of
/// IPv4 come zeros, which add nothing.
#[repr(C)]
struct Pseudo {
    addresses: [u32; 8],
    length: u32,
    protocol: u32,
}

/// What would take too much of the stack.
#[repr(C)]
struct Room {
    pseudo: Pseudo,
    tcp: [u8; MAX_HEADER],
}

#[map]
static ROOM: Scratch<Room> = Scratch::new();

impl Crafted {
    /// Replaces the packet by it.
    #[inline(never)]
    pub(super) fn overwrite(&self, ctx: &TcContext, incoming: &Incoming) {
        let offset = incoming.offset;
        let length = if self.options {
            incoming.tcp.length
        } else {
            TcpHdr::LEN
        };
        let Some(Room { pseudo, tcp }) = ROOM.get() else {
            return;
        };
        *tcp = [0; MAX_HEADER];
        // It is within these bounds. LLVM would merge two comparisons that say so into one, from which Linux 6.12 learns
        // nothing.
        let length = length.clamp(TcpHdr::LEN, MAX_HEADER);
        if !copy(&ctx.skb, offset, tcp, length) {
            return;
        }
        let skb = ctx.skb.skb;
        // SAFETY: a helper that takes this context.
        if unsafe { bpf_skb_change_tail(skb, (offset + length) as u32, 0) } != 0 {
            return;
        }
        self.write_ip(ctx, incoming, length);
        let (source, destination) = self.ports(incoming);
        tcp[..2].copy_from_slice(&source.to_be_bytes());
        tcp[2..4].copy_from_slice(&destination.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledgment.to_be_bytes());
        tcp[12] = (length as u8 / 4) << 4;
        tcp[13] = self.flags;
        [tcp[16], tcp[17]] = [0, 0];
        *pseudo = self.pseudo(incoming, length);
        [tcp[16], tcp[17]] = checksum(pseudo, tcp);
        write(&ctx.skb, offset, tcp, length, BPF_F_RECOMPUTE_CSUM);
    }

    /// Sends it out of the interface by which the packet came in. The packet stays, changed as by
    /// [`Self::overwrite`].
    #[inline(always)]
    pub(super) fn send(&self, ctx: &TcContext, incoming: &Incoming) {
        self.overwrite(ctx, incoming);
        swap_macs(ctx);
        // SAFETY: a helper that takes this context.
        unsafe { bpf_clone_redirect(ctx.skb.skb, ctx.ifindex(), 0) };
        swap_macs(ctx);
    }

    /// Writes addresses and lengths to the IP header.
    #[inline(always)]
    fn write_ip(&self, ctx: &TcContext, incoming: &Incoming, length: usize) {
        let addresses = self.addresses(incoming);
        let at = link::length();
        set_length(ctx, incoming.is_v6, incoming.offset, length);
        if incoming.is_v6 {
            // SAFETY: eight words are 32 bytes.
            let bytes: [u8; 32] = unsafe { core::mem::transmute(addresses) };
            let at = at + SOURCE_V6;
            write(&ctx.skb, at, &bytes, bytes.len(), BPF_F_RECOMPUTE_CSUM);
            return;
        }
        let [a, b, c, d] = addresses[0].to_ne_bytes();
        let [e, f, g, h] = addresses[1].to_ne_bytes();
        let bytes = [a, b, c, d, e, f, g, h];
        // The checksum stays the same, as both addresses do or change places.
        write(&ctx.skb, at + SOURCE_V4, &bytes, bytes.len(), 0);
    }

    /// Source and destination, of IPv4 in the first two words.
    #[inline(always)]
    fn addresses(&self, incoming: &Incoming) -> [u32; 8] {
        let (source, destination) = self.ends(incoming);
        let ([a, b, c, d], [e, f, g, h]) = (source.address.0, destination.address.0);
        if incoming.is_v6 {
            [a, b, c, d, e, f, g, h]
        } else {
            [d, h, 0, 0, 0, 0, 0, 0]
        }
    }

    #[inline(always)]
    fn ports(&self, incoming: &Incoming) -> (u16, u16) {
        let (source, destination) = self.ends(incoming);
        (source.port, destination.port)
    }

    #[inline(always)]
    fn ends(&self, incoming: &Incoming) -> (Endpoint, Endpoint) {
        let connection = &incoming.connection;
        if self.to_sender {
            (connection.destination, connection.source)
        } else {
            (connection.source, connection.destination)
        }
    }

    #[inline(always)]
    fn pseudo(&self, incoming: &Incoming, length: usize) -> Pseudo {
        Pseudo {
            addresses: self.addresses(incoming),
            length: (length as u32).to_be(),
            protocol: u32::from(TCP).to_be(),
        }
    }
}

/// TCP's checksum, as its bytes.
#[inline(always)]
fn checksum(pseudo: &mut Pseudo, tcp: &mut [u8; MAX_HEADER]) -> [u8; 2] {
    let none = core::ptr::null_mut();
    // SAFETY: both live on the stack and have the lengths that are passed.
    let sum = unsafe {
        let size = size_of::<Pseudo>() as u32;
        let sum = bpf_csum_diff(none, 0, core::ptr::from_mut(pseudo).cast(), size, 0);
        bpf_csum_diff(
            none,
            0,
            tcp.as_mut_ptr().cast(),
            MAX_HEADER as u32,
            sum as u32,
        )
    } as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!sum as u16).to_ne_bytes()
}
