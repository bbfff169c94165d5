//! hear: reads TOA on a SYN that is on its way to a listener, before anything answers it.
//!
//! Policies need it that early. Before Linux 6.12, the kernel does not show the SYNs that listeners answer which are
//! older than the agent, so a program of its own reads those of all listeners here.

use core::ptr::read_volatile;

use agent_common::{
    Claim, Counter, Syn, options,
    tcp::{HEADER_ROOM, Header},
    toa::Toa,
};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_TCP_LISTEN},
    macros::map,
    programs::{SkBuffContext, sk_buff::SkBuff},
};
use network_types::tcp::TcpHdr;

use super::toa::{believe, is_heard, kinds};
use crate::{
    kernel::{
        bytes::{Bytes as _, copy},
        context::Skb as _,
        opening::{Opening, Packet},
        tcp::LENGTH,
    },
    maps::{HANDOVERS, Scratch},
    tell::count,
};

/// The TCP header that this CPU reads. On the stack it would take too much room.
#[map]
static HEADER: Scratch<Header> = Scratch::new();

/// A packet reaches a socket. If it opens a connection to a listener, what its TOA says waits in `HANDOVERS`.
#[inline(always)]
pub(crate) fn ingress(ctx: &SkBuffContext) {
    if ctx.socket_state() != Some(BPF_TCP_LISTEN) {
        return;
    }
    let mut opening = Opening::default();
    if opening.read(ctx) != Packet::Opens || is_heard(&opening.syn) {
        return;
    }
    let mut claim = Claim::default();
    if let Some(reason) = hear(&ctx.skb, opening.offset, &opening.syn, &mut claim) {
        count(reason);
    } else if claim.names_client() {
        let _ = HANDOVERS.insert(&opening.syn, &claim, BPF_ANY.into());
    }
}

/// Fills in `claim` with what TOA on the SYN says if it is to be believed. Returns why there is TOA that is not.
#[inline(never)]
pub(crate) fn hear(skb: &SkBuff, offset: u32, syn: &Syn, claim: &mut Claim) -> Option<Counter> {
    let kinds = kinds()?;
    let header = HEADER.get()?;
    read_header(skb, offset, header)?;
    let refused = match options::toa(header, kinds) {
        Toa::Absent => return None,
        Toa::Invalid => Counter::ToaInvalid,
        Toa::Ambiguous => Counter::ToaAmbiguous,
        Toa::Client(client) => believe(header, kinds, client, syn, claim).err()?,
    };
    *claim = Claim::default();
    Some(refused)
}

/// Reads the TCP header with all of its options.
#[inline(always)]
fn read_header(skb: &SkBuff, offset: u32, header: &mut Header) -> Option<()> {
    let offset = offset as usize;
    let [first] = skb.read(offset + LENGTH)?;
    let length = usize::from(first >> 4) * 4;
    // Linux 6.1 has to learn from a comparison that what is copied is not empty. LLVM would compare `first` instead.
    // SAFETY: a reference is valid for reads.
    let length = unsafe { read_volatile(&length) } & (HEADER_ROOM - 1);
    if length < TcpHdr::LEN {
        return None;
    }
    *header = [0; HEADER_ROOM];
    copy(skb, offset, header, length).then_some(())
}
