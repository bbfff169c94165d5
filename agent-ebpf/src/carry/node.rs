//! carry before the node's own NAT: whatever becomes of a SYN's addresses, TOA on it names its sender.
//!
//! The SYN's header is rebuilt: the options without the padding that other systems leave behind or between them, then TOA.

use agent_common::{
    Claim, Counter, Evidence, Syn,
    node::{Interface, Node, Voucher},
    options::{self, class, close_up},
    tcp::{Header, MAX_HEADER, append},
    toa::{self, Kinds, Toa},
};
use aya_ebpf::{
    bindings::tcx_action_base::{TCX_DROP, TCX_NEXT},
    macros::map,
    programs::TcContext,
};

use super::unreadable;
use crate::{
    kernel::{
        context::Skb as _,
        packet::{self, NoSegment, Segment},
        rewrite::{Headers, rewrite},
    },
    learn::{
        snat, tag,
        toa::{believe_hop, kinds},
    },
    maps::{NETNS, NODES, Replaced as _, Scratch},
    tell::count,
};

#[map]
static SAID: Scratch<Said> = Scratch::new();

/// A SYN, and what another hop says on it. On the stack they would take too much room.
#[repr(C)]
struct Said {
    syn: Syn,
    claim: Claim,
}

/// The segment that this CPU handles.
#[map]
static COMING: Scratch<Segment> = Scratch::new();

/// How much of a frame was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// A segment.
    Segment,
    /// Nothing, though it may have one.
    Unreadable,
    /// What is no segment.
    Other,
}

/// Handles one packet at tc ingress and returns the action for it.
#[inline(always)]
pub(crate) fn ingress(ctx: &TcContext) -> i32 {
    match read(ctx) {
        Frame::Segment => {}
        Frame::Other => return TCX_NEXT,
        Frame::Unreadable => {
            if !unreadable::is_syn(ctx, |port| node(ctx, port).is_some()) {
                return TCX_NEXT;
            }
            count(Counter::NodeHidden);
            return TCX_DROP;
        }
    }
    let Some(segment) = COMING.get() else {
        return TCX_NEXT;
    };
    if !segment.tcp.opens() {
        return TCX_NEXT;
    }
    let Some(node) = node(ctx, segment.destination.port) else {
        return TCX_NEXT;
    };
    match kinds() {
        Some(kinds) => passes(ctx, segment, node, kinds),
        None => TCX_NEXT,
    }
}

/// Reads a frame to [`COMING`]. Whichever way it was read, the verifier then follows what comes behind in one state.
#[inline(never)]
fn read(ctx: &TcContext) -> Frame {
    match (packet::arriving(ctx), COMING.get()) {
        (Ok(segment), Some(coming)) => {
            *coming = segment;
            Frame::Segment
        }
        (Err(NoSegment::Unreadable), _) => Frame::Unreadable,
        _ => Frame::Other,
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
    let Some(headers) = Headers::read(ctx, segment) else {
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
    let (mut end, forged) = close_up(&headers.old, &mut headers.new, kinds, class::OWN);
    if forged != 0 && speaks_for_another(ctx, said, &headers.old, node, kinds) {
        return TCX_NEXT;
    }
    let told = append_toa(
        segment,
        &said.syn,
        &mut headers.new,
        &mut end,
        node.kind as u8,
    );
    if forged == 0
        && let Err(reason) = told
    {
        count(reason);
        return TCX_NEXT;
    }
    let length = if has_payload(segment) {
        segment.tcp.length
    } else {
        (end + 3) & !3
    };
    let is_rewritten = rewrite(ctx, segment, headers, length);
    // Counted behind all else: the verifier follows what comes after each count once more.
    if forged != 0 {
        count(Counter::NodeForged);
    }
    // A SYN that cannot be written is damaged, or still carries a forgery. Its sender repeats it.
    if !is_rewritten {
        return TCX_DROP;
    }
    if let Err(reason) = told {
        count(reason);
        return TCX_NEXT;
    }
    count(Counter::NodeToa);
    let voucher = Voucher {
        original_dst: said.syn.destination,
        rule: node.rule,
        evidence: Evidence::Snat as u8,
        ..came_in(ctx, &said.syn, node)
    };
    snat::vouch(&said.syn.source, said.syn.isn, &voucher);
    TCX_NEXT
}

/// Whether a trusted hop sent the SYN, or one may have. Its TOA stays, because the hop is nearer the client.
#[inline(always)]
fn speaks_for_another(
    ctx: &TcContext,
    said: &mut Said,
    header: &Header,
    node: &Node,
    kinds: &Kinds,
) -> bool {
    let client = match options::toa(header, kinds) {
        Toa::Client(client) => client,
        // Whoever sent it may speak for a client whom nobody can be told of.
        Toa::Ambiguous => {
            count(Counter::ToaAmbiguous);
            return true;
        }
        Toa::Absent | Toa::Invalid => return false,
    };
    let Said { syn, claim } = said;
    if believe_hop(header, kinds, client, syn, claim).is_err() {
        return false;
    }
    let voucher = Voucher {
        rule: claim.rule,
        evidence: Evidence::Toa as u8,
        ..came_in(ctx, syn, node)
    };
    snat::vouch(&client, syn.isn, &voucher);
    true
}

/// A voucher that tells how the SYN came in.
#[inline(always)]
fn came_in(ctx: &TcContext, syn: &Syn, node: &Node) -> Voucher {
    Voucher {
        source: syn.source,
        netns: NETNS.load(),
        ifindex: ctx.ifindex(),
        master: node.master,
        ..Voucher::default()
    }
}

/// Whether the SYN has a payload (TCP Fast Open), into which its header cannot grow.
#[inline(always)]
fn has_payload(segment: &Segment) -> bool {
    segment.length != segment.tcp.length
}

/// Appends TOA for the sender, and its tag, to the options that end at `end`, which moves. Returns why the sender cannot be
/// told.
#[inline(always)]
fn append_toa(
    segment: &Segment,
    syn: &Syn,
    header: &mut Header,
    end: &mut usize,
    kind: u8,
) -> Result<(), Counter> {
    if toa::is_ambiguous(kind, syn.source.port) {
        return Err(Counter::ToaAmbiguous);
    }
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
    if *end + usize::from(length) > room {
        return Err(Counter::NodeNoRoom);
    }
    *end = if segment.is_v6 {
        append(header, *end, &toa::option_v6(kind, syn.source))
    } else {
        append(header, *end, &toa::option_v4(kind, syn.source))
    };
    let Some(tag) = tag::sign(syn.source, syn.isn) else {
        return Ok(());
    };
    if *end + tag.len() > room {
        count(Counter::CarryUnsigned);
    } else {
        *end = append(header, *end, &tag);
    }
    Ok(())
}
