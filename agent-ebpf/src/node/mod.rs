//! carry before the node's own NAT: whatever becomes of a SYN's addresses, TOA on it names its sender.
//!
//! A SYN has no payload, so its header is made anew at the packet's end: the options without padding, which
//! other systems leave after the end of options or between them, then TOA.

mod header;
mod hidden;

use agent_common::{
    Counter, Endpoint, Evidence,
    node::{Interface, Node, Passage, Voucher},
    options::HEADER_ROOM,
    toa::{self, Kinds, Toa},
};
use aya_ebpf::{
    bindings::{
        BPF_ANY,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    helpers::generated::bpf_ktime_get_boot_ns,
    programs::TcContext,
};

use crate::{
    counters::count,
    maps::{NETNS, NODES, PASSAGES, TRUSTED_SOURCES, longest_match},
    packet::{self, Segment},
};

/// A SYN to a port of a `[[carry.node]]`.
struct Syn {
    source: Endpoint,
    destination: Endpoint,
    isn: u32,
    v6: bool,
    /// Where the TCP header begins.
    offset: usize,
    /// Its length.
    header: usize,
    has_payload: bool,
}

/// One packet at tc ingress; the action for it.
#[inline(always)]
pub(crate) fn packet(ctx: &TcContext) -> i32 {
    let Some(segment) = packet::read(ctx) else {
        if !hidden::is_syn(ctx) {
            return TCX_NEXT;
        }
        count(Counter::NodeHidden);
        return TCX_DROP;
    };
    if !segment.opens {
        return TCX_NEXT;
    }
    let Some(node) = node(ctx, segment.port) else {
        return TCX_NEXT;
    };
    let syn = Syn::new(&segment);
    match crate::toa::kinds() {
        Some(kinds) => syn.passes(ctx, node, kinds),
        None => TCX_NEXT,
    }
}

/// What is done with SYNs to this port that come in by the packet's interface.
#[inline(always)]
fn node(ctx: &TcContext, port: u16) -> Option<&'static Node> {
    let interface = Interface {
        netns: NETNS.load(),
        // SAFETY: the context is valid while the program runs.
        ifindex: unsafe { (*ctx.skb.skb).ifindex },
        padding: 0,
    };
    // SAFETY: values are never changed in place.
    unsafe { NODES.get(interface) }.filter(|node| node.has(port))
}

impl Syn {
    #[inline(always)]
    fn new(segment: &Segment) -> Self {
        let tcp = segment.tcp();
        Self {
            source: segment.source(),
            destination: segment.destination(),
            isn: tcp.sequence,
            v6: segment.v6,
            offset: segment.offset,
            header: tcp.length,
            has_payload: segment.length != tcp.length,
        }
    }

    #[inline(always)]
    fn passes(&self, ctx: &TcContext, node: &Node, kinds: &Kinds) -> i32 {
        let Some(headers) = self.headers(ctx) else {
            return TCX_NEXT;
        };
        let (end, forged) = toa::remove(&headers.old, &mut headers.new, kinds);
        if forged != 0 && self.speaks_for_another(&headers.old, kinds) {
            return TCX_NEXT;
        }
        let (end, is_told) = match self.tell(&mut headers.new, end, node.kind as u8) {
            Some(end) => (end, true),
            None => (end, false),
        };
        if forged != 0 {
            count(Counter::NodeForged);
        } else if !is_told {
            count(Counter::NodeNoRoom);
            return TCX_NEXT;
        }
        // What cannot be written is in pieces, or still forged; its sender repeats it.
        if !self.write(ctx, headers, end) {
            return TCX_DROP;
        }
        if is_told {
            count(Counter::NodeToa);
            self.vouch(self.source, Evidence::Snat, node.rule, self.destination);
        } else {
            count(Counter::NodeNoRoom);
        }
        TCX_NEXT
    }

    /// Whether a trusted hop sent it, whose TOA stays: it is nearer the client.
    #[inline(always)]
    fn speaks_for_another(&self, header: &[u8; HEADER_ROOM], kinds: &Kinds) -> bool {
        let Some(rule) = longest_match(&TRUSTED_SOURCES, self.source.address) else {
            return false;
        };
        if let Toa::Client(client) = toa::find(header, kinds) {
            self.vouch(client, Evidence::Toa, rule, Endpoint::default());
        }
        true
    }

    /// Remembers for the socket that answers on this node who the client is.
    #[inline(always)]
    fn vouch(&self, client: Endpoint, evidence: Evidence, rule: u32, original_dst: Endpoint) {
        let passage = Passage {
            client,
            isn: self.isn,
        };
        let voucher = Voucher {
            // SAFETY: a helper without arguments.
            since: unsafe { bpf_ktime_get_boot_ns() },
            original_dst,
            rule,
            evidence: evidence as u8,
            ..Voucher::default()
        };
        let _ = PASSAGES.insert(passage, voucher, BPF_ANY.into());
    }
}

/// What this node itself knows of the client that TOA on a SYN names.
#[inline(always)]
pub(crate) fn voucher(client: Endpoint, isn: u32) -> Option<&'static Voucher> {
    // SAFETY: values are never changed in place.
    let voucher = unsafe { PASSAGES.get(Passage { client, isn }) }?;
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    (now.wrapping_sub(voucher.since) < Voucher::LIFE).then_some(voucher)
}
