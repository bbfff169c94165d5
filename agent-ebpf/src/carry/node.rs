//! carry before the node's own NAT: whatever becomes of a SYN's addresses, TOA on it names its sender.
//!
//! A SYN has no payload, so its header is made anew at the packet's end: the options without padding, which
//! other systems leave after the end of options or between them, then TOA.

mod hidden;

use core::ptr::read_volatile;

use agent_common::{
    Claim, Counter, Endpoint, Evidence, Syn,
    node::{Interface, Node, Passage, Voucher},
    options::{self, HEADER_ROOM},
    toa::{self, Kinds, Toa},
};
use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_F_PSEUDO_HDR,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    helpers::generated::{
        bpf_csum_diff, bpf_ktime_get_boot_ns, bpf_l4_csum_replace, bpf_skb_change_tail,
    },
    macros::map,
    maps::PerCpuArray,
    programs::TcContext,
};
use network_types::tcp::TcpHdr;

use crate::{
    counters::count,
    maps::{NETNS, NODES, PASSAGES},
    packet::{self, Segment, load, set_length, write},
    tag,
};

/// Longest TCP header.
const MAX_HEADER: usize = 60;
/// Offset in the TCP header.
const CHECKSUM: usize = 16;

#[map]
static TCP_HEADERS: PerCpuArray<Headers> = PerCpuArray::with_max_entries(1, 0);

/// A TCP header as it came in and as it goes on, zeros behind. They would take too much of the stack.
#[repr(C, align(8))]
struct Headers {
    old: [u8; HEADER_ROOM],
    new: [u8; HEADER_ROOM],
}

#[map]
static SAID: PerCpuArray<Said> = PerCpuArray::with_max_entries(1, 0);

/// What another hop says on a SYN, likewise.
#[repr(C)]
struct Said {
    syn: Syn,
    claim: Claim,
}

impl Headers {
    const EMPTY: Self = Self {
        old: [0; HEADER_ROOM],
        new: [0; HEADER_ROOM],
    };
}

/// A SYN to a port of a `[[carry.node]]`.
struct Incoming {
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
    if !segment.opens() {
        return TCX_NEXT;
    }
    let Some(node) = node(ctx, segment.port) else {
        return TCX_NEXT;
    };
    let incoming = Incoming::new(&segment);
    match crate::toa::kinds() {
        Some(kinds) => incoming.passes(ctx, node, kinds),
        None => TCX_NEXT,
    }
}

/// The length, if a TCP header can have it. LLVM would compare the difference to the least length, and the
/// verifier not know what that says of the length: the volatile read makes the difference come first.
#[inline(always)]
fn bounded(length: usize) -> Option<usize> {
    let options = length.wrapping_sub(TcpHdr::LEN);
    // SAFETY: a reference is valid for reads.
    let options = unsafe { read_volatile(&options) };
    (options <= MAX_HEADER - TcpHdr::LEN).then_some(options + TcpHdr::LEN)
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

impl Incoming {
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
        let Some(headers) = TCP_HEADERS.get_ptr_mut(0) else {
            return TCX_NEXT;
        };
        // SAFETY: a slot of this CPU, on which one packet at a time arrives.
        let headers = unsafe { &mut *headers };
        *headers = Headers::EMPTY;
        if !bounded(self.header).is_some_and(|l| load(ctx, self.offset, &mut headers.old, l)) {
            return TCX_NEXT;
        }
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
        let Toa::Client(client) = toa::find(header, kinds) else {
            return false;
        };
        let Some(said) = SAID.get_ptr_mut(0) else {
            return false;
        };
        // SAFETY: a slot of this CPU, on which one packet at a time arrives.
        let said = unsafe { &mut *said };
        said.syn = Syn {
            source: self.source,
            destination: self.destination,
            isn: self.isn,
        };
        if crate::toa::believe_hop(header, client, &said.syn, &mut said.claim).is_err() {
            return false;
        }
        self.vouch(client, Evidence::Toa, said.claim.rule, Endpoint::default());
        true
    }

    /// Appends what tells the sender to the options that end at `end`; where they end now. `None`: there is no
    /// room.
    #[inline(always)]
    fn tell(&self, header: &mut [u8; HEADER_ROOM], end: usize, kind: u8) -> Option<usize> {
        // A header cannot grow into the payload (TCP Fast Open).
        let room = if self.has_payload {
            self.header
        } else {
            MAX_HEADER
        };
        let length = if self.v6 { toa::LEN_V6 } else { toa::LEN_V4 };
        if end + usize::from(length) > room {
            return None;
        }
        let end = if self.v6 {
            options::append(header, end, &toa::option_v6(kind, self.source))
        } else {
            options::append(header, end, &toa::option_v4(kind, self.source))
        };
        let Some(tag) = tag::option(self.source, self.isn) else {
            return Some(end);
        };
        if end + tag.len() > room {
            count(Counter::CarryUnsigned);
            return Some(end);
        }
        Some(options::append(header, end, &tag))
    }

    /// Writes the new header, whose options end at `end`, over the old one.
    #[inline(always)]
    fn write(&self, ctx: &TcContext, headers: &mut Headers, end: usize) -> bool {
        let length = if self.has_payload {
            self.header
        } else {
            (end + 3) & !3
        };
        let Headers { old, new } = headers;
        new[12] = (length as u8 / 4) << 4 | old[12] & 0x0f;
        let skb = ctx.skb.skb;
        if length != self.header {
            // SAFETY: the context is valid while the program runs.
            let error = unsafe { bpf_skb_change_tail(skb, (self.offset + length) as u32, 0) };
            if error != 0 {
                return false;
            }
        }
        if !bounded(length).is_some_and(|length| write(ctx, self.offset, new, length, 0)) {
            return false;
        }
        let checksum = (self.offset + CHECKSUM) as u32;
        let of_length = |length: usize| u64::from((length as u16).to_be());
        // Where the device is to make the checksum, it is that of the pseudo header (RFC 9293, 3.1) so far, of
        // which the length is a part.
        let pseudo = u64::from(BPF_F_PSEUDO_HDR) | size_of::<u16>() as u64;
        // SAFETY: as above; both headers have the length that is passed.
        let is_summed = unsafe {
            let size = HEADER_ROOM as u32;
            let (from, to) = (old.as_mut_ptr().cast(), new.as_mut_ptr().cast());
            let difference = bpf_csum_diff(from, size, to, size, 0);
            bpf_l4_csum_replace(skb, checksum, 0, difference as u64, 0) == 0
                && (length == self.header
                    || bpf_l4_csum_replace(
                        skb,
                        checksum,
                        of_length(self.header),
                        of_length(length),
                        pseudo,
                    ) == 0)
        };
        if length != self.header {
            set_length(ctx, self.v6, self.offset, length);
        }
        is_summed
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
