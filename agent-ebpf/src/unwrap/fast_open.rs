//! TCP Fast Open (RFC 7413): a SYN with a cookie opens a connection by itself, which an application could accept before the
//! header has come, and whose stream would begin with it. So the server never sees that its sender knows Fast Open.

use agent_common::options::{class, close_up};
use aya_ebpf::programs::TcContext;
use network_types::tcp::TcpHdr;

use super::incoming::Incoming;
use crate::{
    kernel::{
        packet::Segment,
        rewrite::{Headers, rewrite},
    },
    maps::TOA,
};

/// Takes the option off a SYN, if it has it. Returns whether the SYN is without it now.
#[inline(never)]
pub(super) fn take_off(ctx: &TcContext, syn: &Incoming) -> bool {
    if syn.tcp.length <= TcpHdr::LEN {
        return true;
    }
    let segment = Segment {
        source: syn.connection.source,
        destination: syn.connection.destination,
        is_v6: syn.is_v6,
        tcp: syn.tcp,
        offset: syn.offset,
        length: syn.tcp.length,
    };
    let Some(headers) = Headers::read(ctx, &segment) else {
        return false;
    };
    let Some(kinds) = TOA.get(0) else {
        return false;
    };
    let (_, number) = close_up(&headers.old, &mut headers.new, kinds, class::FAST_OPEN);
    if number == 0 {
        return true;
    }
    // The header keeps its length: what is left needs no more room.
    rewrite(ctx, &segment, headers, segment.tcp.length)
}
