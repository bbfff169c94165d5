//! Makes a segment without payload out of the one that came in.

use agent_common::Endpoint;
use aya_ebpf::{
    bindings::BPF_F_RECOMPUTE_CSUM,
    helpers::generated::{
        bpf_clone_redirect, bpf_csum_diff, bpf_l3_csum_replace, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    macros::map,
    maps::PerCpuArray,
    programs::TcContext,
};
use network_types::{eth::EthHdr, tcp::TcpHdr};

use super::Incoming;
use crate::packet::TCP;

/// Longest TCP header.
const HEADER: usize = 60;
/// Length of both addresses of an Ethernet header.
const MACS: usize = 12;
/// Offsets in the IPv4 header.
const TOTAL_LENGTH: usize = 2;
const IP_CHECKSUM: usize = 10;
const SOURCE_V4: usize = 12;
/// Offsets in the IPv6 header.
const PAYLOAD_LENGTH: usize = 4;
const SOURCE_V6: usize = 8;

/// A segment without payload.
pub(super) struct Crafted {
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    /// Of the TCP header.
    pub(super) flags: u8,
    /// From the server to the sender; else from the sender to the server.
    pub(super) to_sender: bool,
    /// Whether it has the options of the segment that came in.
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
    tcp: [u8; HEADER],
}

#[map]
static ROOM: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

impl Crafted {
    /// Writes it over the packet.
    #[inline(never)]
    pub(super) fn write(&self, ctx: &TcContext, incoming: &Incoming) {
        let offset = incoming.offset;
        let length = if self.options {
            incoming.tcp.length
        } else {
            TcpHdr::LEN
        };
        let Some(room) = ROOM.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: a slot of this CPU, on which one packet at a time is made.
        let Room { pseudo, tcp } = unsafe { &mut *room };
        *tcp = [0; HEADER];
        if !(TcpHdr::LEN..=HEADER).contains(&length) || !load(ctx, offset, tcp, length) {
            return;
        }
        let skb = ctx.skb.skb;
        // SAFETY: the context is valid while the program runs.
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
        store(ctx, offset, tcp, length);
    }

    /// Sends it out of the interface by which the packet came in; the packet is as before, but for what
    /// [`Self::write`] changes.
    #[inline(always)]
    pub(super) fn send(&self, ctx: &TcContext, incoming: &Incoming) {
        self.write(ctx, incoming);
        swap_macs(ctx);
        let skb = ctx.skb.skb;
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_clone_redirect(skb, (*skb).ifindex, 0) };
        swap_macs(ctx);
    }

    /// Addresses and lengths of the IP header.
    #[inline(always)]
    fn write_ip(&self, ctx: &TcContext, incoming: &Incoming, length: usize) {
        let addresses = self.addresses(incoming);
        let at = EthHdr::LEN;
        if incoming.is_v6() {
            let new = (length as u16).to_be_bytes();
            store(ctx, at + PAYLOAD_LENGTH, &new, new.len());
            // SAFETY: eight words are 32 bytes.
            let bytes: [u8; 32] = unsafe { core::mem::transmute(addresses) };
            store(ctx, at + SOURCE_V6, &bytes, bytes.len());
            return;
        }
        let mut old = [0; 2];
        load(ctx, at + TOTAL_LENGTH, &mut old, 2);
        let new = ((incoming.offset - at + length) as u16).to_be_bytes();
        let word = |bytes| u64::from(u16::from_ne_bytes(bytes));
        // SAFETY: the context is valid while the program runs.
        unsafe {
            bpf_l3_csum_replace(
                ctx.skb.skb,
                (at + IP_CHECKSUM) as u32,
                word(old),
                word(new),
                new.len() as u64,
            );
        }
        write(ctx, at + TOTAL_LENGTH, &new, new.len(), 0);
        let [a, b, c, d] = addresses[0].to_ne_bytes();
        let [e, f, g, h] = addresses[1].to_ne_bytes();
        let bytes = [a, b, c, d, e, f, g, h];
        // Exchanged or not, they add up to the same.
        write(ctx, at + SOURCE_V4, &bytes, bytes.len(), 0);
    }

    /// Source and destination, of IPv4 in the first two words.
    #[inline(always)]
    fn addresses(&self, incoming: &Incoming) -> [u32; 8] {
        let (source, destination) = self.ends(incoming);
        let ([a, b, c, d], [e, f, g, h]) = (source.address.0, destination.address.0);
        if incoming.is_v6() {
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
fn checksum(pseudo: &mut Pseudo, tcp: &mut [u8; HEADER]) -> [u8; 2] {
    let none = core::ptr::null_mut();
    // SAFETY: both live on the stack and have the lengths that are passed.
    let sum = unsafe {
        let size = size_of::<Pseudo>() as u32;
        let sum = bpf_csum_diff(none, 0, core::ptr::from_mut(pseudo).cast(), size, 0);
        bpf_csum_diff(none, 0, tcp.as_mut_ptr().cast(), HEADER as u32, sum as u32)
    } as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!sum as u16).to_ne_bytes()
}

#[inline(always)]
fn swap_macs(ctx: &TcContext) {
    let mut macs = [0; MACS];
    load(ctx, 0, &mut macs, MACS);
    let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
    write(ctx, 0, &[g, h, i, j, k, l, a, b, c, d, e, f], MACS, 0);
}

#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, at: usize, to: &mut [u8; N], length: usize) -> bool {
    // SAFETY: the callers pass no more than the array's length; the context is valid.
    unsafe {
        let to = to.as_mut_ptr().cast();
        bpf_skb_load_bytes(ctx.skb.skb.cast(), at as u32, to, length as u32) == 0
    }
}

/// Writes, and has a checksum of the whole packet follow that the device has made.
#[inline(always)]
fn store<const N: usize>(ctx: &TcContext, at: usize, from: &[u8; N], length: usize) {
    write(ctx, at, from, length, BPF_F_RECOMPUTE_CSUM.into());
}

#[inline(always)]
fn write<const N: usize>(ctx: &TcContext, at: usize, from: &[u8; N], length: usize, flags: u64) {
    let from = from.as_ptr().cast();
    // SAFETY: as in `load`.
    unsafe { bpf_skb_store_bytes(ctx.skb.skb, at as u32, from, length as u32, flags) };
}
