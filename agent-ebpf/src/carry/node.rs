//! carry before the node's own NAT: whatever becomes of a SYN's addresses, TOA on it names its sender.
//!
//! A SYN has no payload, so its header can be rebuilt at the packet's end: the options without the padding
//! that other systems leave behind or between them, then TOA.

use core::ptr::read_volatile;

use agent_common::{
    Claim, Counter, Evidence, Syn,
    node::{Interface, Node, Voucher},
    options::{self, HEADER_ROOM, MAX_HEADER},
    toa::{self, Kinds, Toa},
};
use aya_ebpf::{
    bindings::{
        BPF_F_PSEUDO_HDR,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    helpers::generated::{bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_change_tail},
    macros::map,
    programs::TcContext,
};
use network_types::tcp::TcpHdr;

use super::unreadable;
use crate::{
    kernel::{
        bytes::{copy, write},
        context::Skb as _,
        ip::set_length,
        packet::{self, NoSegment, Obstacle, Segment},
        tcp::{CHECKSUM, LENGTH},
    },
    learn::{
        snat, tag,
        toa::{believe_hop, kinds},
    },
    maps::{NETNS, NODES, Replaced as _, Scratch},
    tell::count,
};

#[map]
static TCP_HEADERS: Scratch<Headers> = Scratch::new();

/// A TCP header as it came in and as it goes on, each followed by zeros. On the stack they would take too
/// much room.
#[repr(C, align(8))]
struct Headers {
    old: [u8; HEADER_ROOM],
    new: [u8; HEADER_ROOM],
}

impl Headers {
    const EMPTY: Self = Self {
        old: [0; HEADER_ROOM],
        new: [0; HEADER_ROOM],
    };
}

#[map]
static SAID: Scratch<Said> = Scratch::new();

/// A SYN, and what another hop says on it. On the stack they would take too much room.
#[repr(C)]
struct Said {
    syn: Syn,
    claim: Claim,
}

/// Handles one packet at tc ingress and returns the action for it.
#[inline(always)]
pub(crate) fn ingress(ctx: &TcContext) -> i32 {
    let segment = match packet::read(ctx) {
        Ok(segment) => segment,
        Err(NoSegment::Other | NoSegment::Unreadable(Obstacle::Tag)) => return TCX_NEXT,
        Err(NoSegment::Unreadable(_)) => {
            if !unreadable::is_syn(ctx, |port| node(ctx, port).is_some()) {
                return TCX_NEXT;
            }
            count(Counter::NodeHidden);
            return TCX_DROP;
        }
    };
    if !segment.tcp.opens() {
        return TCX_NEXT;
    }
    let Some(node) = node(ctx, segment.destination.port) else {
        return TCX_NEXT;
    };
    match kinds() {
        Some(kinds) => passes(ctx, &segment, node, kinds),
        None => TCX_NEXT,
    }
}

/// What is to be done with SYNs to this port that come in by the packet's interface.
#[inline(always)]
fn node(ctx: &TcContext, port: u16) -> Option<&'static Node> {
    let interface = Interface {
        netns: NETNS.load(),
        ifindex: ctx.ifindex(),
        padding: 0,
    };
    NODES.look_up(interface).filter(|node| node.ports.has(port))
}

/// Gives TOA to a SYN to a port of the node, and returns the action for it.
#[inline(always)]
fn passes(ctx: &TcContext, segment: &Segment, node: &Node, kinds: &Kinds) -> i32 {
    let Some(headers) = TCP_HEADERS.get() else {
        return TCX_NEXT;
    };
    let Some(said) = SAID.get() else {
        return TCX_NEXT;
    };
    said.syn = Syn {
        source: segment.source,
        destination: segment.destination,
        isn: segment.tcp.sequence,
    };
    *headers = Headers::EMPTY;
    let length = bounded(segment.tcp.length);
    if !length.is_some_and(|length| copy(&ctx.skb, segment.offset, &mut headers.old, length)) {
        return TCX_NEXT;
    }
    let (end, forged) = toa::remove(&headers.old, &mut headers.new, kinds);
    if forged != 0 && speaks_for_another(said, &headers.old, kinds) {
        return TCX_NEXT;
    }
    let (end, is_told) =
        match append_toa(segment, &said.syn, &mut headers.new, end, node.kind as u8) {
            Some(end) => (end, true),
            None => (end, false),
        };
    if forged == 0 && !is_told {
        count(Counter::NodeNoRoom);
        return TCX_NEXT;
    }
    let is_rewritten = rewrite(ctx, segment, headers, end);
    // Counted behind all else: the verifier follows what comes after each count once more.
    if forged != 0 {
        count(Counter::NodeForged);
    }
    // A SYN that cannot be written is damaged, or still carries a forgery. Its sender repeats it.
    if !is_rewritten {
        return TCX_DROP;
    }
    if is_told {
        count(Counter::NodeToa);
        let voucher = Voucher {
            original_dst: said.syn.destination,
            rule: node.rule,
            evidence: Evidence::Snat as u8,
            ..Voucher::default()
        };
        snat::vouch(said.syn.source, said.syn.isn, voucher);
    } else {
        count(Counter::NodeNoRoom);
    }
    TCX_NEXT
}

/// The length, if a TCP header can have it. LLVM would check the range on a shifted copy, from which the
/// verifier learns nothing about the length: the volatile read makes the shifted value the one that is used.
#[inline(always)]
fn bounded(length: usize) -> Option<usize> {
    let options = length.wrapping_sub(TcpHdr::LEN);
    // SAFETY: a reference is valid for reads.
    let options = unsafe { read_volatile(&options) };
    (options <= MAX_HEADER - TcpHdr::LEN).then_some(options + TcpHdr::LEN)
}

/// Whether a trusted hop sent the SYN. Its TOA stays, because the hop is nearer the client.
#[inline(always)]
fn speaks_for_another(said: &mut Said, header: &[u8; HEADER_ROOM], kinds: &Kinds) -> bool {
    let Toa::Client(client) = toa::find(header, kinds) else {
        return false;
    };
    let Said { syn, claim } = said;
    if believe_hop(header, client, syn, claim).is_err() {
        return false;
    }
    let voucher = Voucher {
        rule: claim.rule,
        evidence: Evidence::Toa as u8,
        ..Voucher::default()
    };
    snat::vouch(client, syn.isn, voucher);
    true
}

/// Whether the SYN has a payload (TCP Fast Open), into which its header cannot grow.
#[inline(always)]
fn has_payload(segment: &Segment) -> bool {
    segment.length != segment.tcp.length
}

/// Appends TOA for the sender, and its tag, to the options that end at `end`. Returns where they end now, or
/// `None` if there is no room.
#[inline(always)]
fn append_toa(
    segment: &Segment,
    syn: &Syn,
    header: &mut [u8; HEADER_ROOM],
    end: usize,
    kind: u8,
) -> Option<usize> {
    let room = if has_payload(segment) {
        segment.tcp.length
    } else {
        MAX_HEADER
    };
    let length = if segment.is_v6 {
        toa::LEN_V6
    } else {
        toa::LEN_V4
    };
    if end + usize::from(length) > room {
        return None;
    }
    let end = if segment.is_v6 {
        options::append(header, end, &toa::option_v6(kind, syn.source))
    } else {
        options::append(header, end, &toa::option_v4(kind, syn.source))
    };
    let Some(tag) = tag::sign(syn.source, syn.isn) else {
        return Some(end);
    };
    if end + tag.len() > room {
        count(Counter::CarryUnsigned);
        return Some(end);
    }
    Some(options::append(header, end, &tag))
}

/// Replaces the packet's TCP header by the new one, whose options end at `end`.
#[inline(always)]
fn rewrite(ctx: &TcContext, segment: &Segment, headers: &mut Headers, end: usize) -> bool {
    let old_length = segment.tcp.length;
    let length = if has_payload(segment) {
        old_length
    } else {
        (end + 3) & !3
    };
    let Headers { old, new } = headers;
    new[LENGTH] = (length as u8 / 4) << 4 | old[LENGTH] & 0x0f;
    let skb = ctx.skb.skb;
    if length != old_length {
        // SAFETY: a helper that takes this context.
        let error = unsafe { bpf_skb_change_tail(skb, (segment.offset + length) as u32, 0) };
        if error != 0 {
            return false;
        }
    }
    if !bounded(length).is_some_and(|length| write(&ctx.skb, segment.offset, new, length, 0)) {
        return false;
    }
    let checksum = (segment.offset + CHECKSUM) as u32;
    let of_length = |length: usize| u64::from((length as u16).to_be());
    // If the device is to compute the checksum, the field holds that of the pseudo header (RFC 9293, 3.1), of
    // which the length is a part.
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | size_of::<u16>() as u64;
    let (from, to) = (of_length(old_length), of_length(length));
    // SAFETY: both headers have the length that is passed.
    let is_summed = unsafe {
        let size = HEADER_ROOM as u32;
        let (old, new) = (old.as_mut_ptr().cast(), new.as_mut_ptr().cast());
        let difference = bpf_csum_diff(old, size, new, size, 0);
        bpf_l4_csum_replace(skb, checksum, 0, difference as u64, 0) == 0
            && (length == old_length || bpf_l4_csum_replace(skb, checksum, from, to, pseudo) == 0)
    };
    if length != old_length {
        set_length(ctx, segment.is_v6, segment.offset, length);
    }
    is_summed
}
