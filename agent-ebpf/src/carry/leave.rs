//! carry behind the node's own NAT: a SYN leaves the node with TOA only if truepeer wrote it here, or believes whoever sent
//! it. Other hosts believe the node, and any pod's packets can have been given the node's address.

use agent_common::{
    Counter, Syn,
    node::Voucher,
    options::{self, class},
    toa::{Kinds, Toa},
};
use aya_ebpf::{
    bindings::tcx_action_base::{TCX_DROP, TCX_NEXT},
    programs::TcContext,
};

use super::unreadable;
use crate::{
    kernel::{
        context::Skb as _,
        packet::{self, NoSegment, Segment},
        rewrite::{Headers, rewrite},
        tcp::{ACK, SYN},
    },
    learn::{
        snat,
        toa::{is_of_hop, kinds},
    },
    maps::NETNS,
    tell::count,
};

/// Handles one packet at tc egress and returns the action for it.
#[inline(always)]
pub(crate) fn egress(ctx: &TcContext) -> i32 {
    // Its socket is not asked: a raw one can have the state of a connection, too.
    let segment = match packet::read(ctx) {
        Ok(segment) => segment,
        Err(NoSegment::Other) => return TCX_NEXT,
        Err(NoSegment::Unreadable) => {
            if !unreadable::is_syn(ctx, |_| true) {
                return TCX_NEXT;
            }
            count(Counter::NodeHidden);
            return TCX_DROP;
        }
    };
    let tcp = &segment.tcp;
    if !tcp.has(SYN) {
        return TCX_NEXT;
    }
    if tcp.has(ACK) {
        let isn = tcp.acknowledgment.wrapping_sub(1);
        snat::answers(segment.destination, isn, &segment.source, tcp.sequence);
        return TCX_NEXT;
    }
    match kinds() {
        Some(kinds) => leaves(ctx, &segment, kinds),
        None => TCX_NEXT,
    }
}

/// Takes TOA off a SYN if nobody who is believed wrote it, and returns the action for it.
#[inline(always)]
fn leaves(ctx: &TcContext, segment: &Segment, kinds: &Kinds) -> i32 {
    let Some(headers) = Headers::read(ctx, segment) else {
        return TCX_NEXT;
    };
    match options::toa(&headers.old, kinds) {
        // What may as well be something else is TOA to nobody.
        Toa::Absent | Toa::Ambiguous => return TCX_NEXT,
        Toa::Client(client) => {
            let syn = Syn {
                source: segment.source,
                destination: segment.destination,
                isn: segment.tcp.sequence,
            };
            let came = ctx.came_by();
            let came_so = |voucher: &Voucher| {
                voucher.ifindex == 0
                    || voucher.netns == NETNS.load()
                        && (came == voucher.ifindex || came == voucher.master)
            };
            // What another hop says leaves with that one's address.
            if snat::voucher(&client, &syn).is_some_and(came_so) || is_of_hop(&syn) {
                return TCX_NEXT;
            }
        }
        Toa::Invalid => {}
    }
    options::close_up(&headers.old, &mut headers.new, kinds, class::OWN);
    // The header keeps its length, with padding behind the options: what is left needs no more room.
    let is_rewritten = rewrite(ctx, segment, headers, segment.tcp.length);
    count(Counter::NodeStripped);
    if is_rewritten { TCX_NEXT } else { TCX_DROP }
}
