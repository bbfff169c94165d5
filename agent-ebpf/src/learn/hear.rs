//! hear: reads TOA on a SYN that is on its way to a listener, before anything answers it.
//!
//! Policies need it that early. Before Linux 6.12, the kernel does not show the SYNs that listeners answer which are
//! older than the agent, so a program of its own reads them here.

use core::ptr::read_volatile;

use agent_common::{
    Claim, Syn,
    options::HEADER_ROOM,
    toa::{Toa, find},
};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_TCP_LISTEN},
    macros::map,
    programs::SkBuffContext,
};
use network_types::tcp::TcpHdr;

use super::toa::{believe, kinds};
use crate::{
    kernel::{
        bytes::{Bytes as _, copy},
        context::Skb as _,
        opening::Opening,
        tcp::LENGTH,
    },
    maps::{HANDOVERS, Scratch},
};

/// The TCP header that this CPU reads. On the stack it would take too much room.
#[map]
static HEADER: Scratch<[u8; HEADER_ROOM]> = Scratch::new();

/// A packet reaches a socket. If it opens a connection to a listener, what its TOA says waits in `HANDOVERS`.
#[inline(always)]
pub(crate) fn ingress(ctx: &SkBuffContext) {
    if ctx.socket_state() != Some(BPF_TCP_LISTEN) {
        return;
    }
    let opening = Opening::read(ctx);
    let Ok(Some(Opening { syn, offset })) = &opening else {
        return;
    };
    let mut claim = Claim::default();
    if hear(ctx, *offset, syn, &mut claim) {
        let _ = HANDOVERS.insert(syn, &claim, BPF_ANY.into());
    }
}

/// Whether the SYN has TOA that is to be believed. If so, `claim` becomes what it says.
#[inline(never)]
pub(crate) fn hear(ctx: &SkBuffContext, offset: u32, syn: &Syn, claim: &mut Claim) -> bool {
    if let Some(kinds) = kinds()
        && let Some(header) = HEADER.get()
        && read_header(ctx, offset, header).is_some()
        && let Toa::Client(client) = find(header, kinds)
    {
        believe(header, client, syn, claim).is_ok()
    } else {
        false
    }
}

/// Reads the TCP header with all of its options.
#[inline(always)]
fn read_header(ctx: &SkBuffContext, offset: u32, header: &mut [u8; HEADER_ROOM]) -> Option<()> {
    let offset = offset as usize;
    let [first] = ctx.skb.read(offset + LENGTH)?;
    let length = usize::from(first >> 4) * 4;
    // Linux 6.1 has to learn from a comparison that what is copied is not empty. LLVM would compare `first` instead.
    // SAFETY: a reference is valid for reads.
    let length = unsafe { read_volatile(&length) } & (HEADER_ROOM - 1);
    if length < TcpHdr::LEN {
        return None;
    }
    *header = [0; HEADER_ROOM];
    // A zero that the verifier does not know to be one, as `find` wants it behind the header.
    // SAFETY: a reference is valid for reads.
    header[HEADER_ROOM - 1] = unsafe { read_volatile(&first) ^ read_volatile(&first) };
    copy(&ctx.skb, offset, header, length).then_some(())
}
