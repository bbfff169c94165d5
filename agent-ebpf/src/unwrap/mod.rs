//! unwrap: takes a PROXY header off the stream with no proxy.
//!
//! The server is told a SYN whose sequence number is the header's length ahead, so its stream begins
//! behind the header. Nothing else of the sender reaches it until the segment with the header comes: that
//! one completes the handshake, its first bytes lie before the server's window, and TCP trims them. From
//! then on nothing is changed, unless the header has another length than was expected.

pub(crate) mod answer;
mod craft;
mod header;
mod incoming;
mod refuse;
mod stream;
mod tlvs;
pub(crate) mod translate;

use aya_ebpf::{bindings::tcx_action_base::TCX_NEXT, programs::TcContext};

use self::incoming::Incoming;

/// One packet at tc ingress; the action for it.
#[inline(always)]
pub(crate) fn ingress(ctx: &TcContext) -> i32 {
    let Some(incoming) = Incoming::read(ctx) else {
        return TCX_NEXT;
    };
    match incoming.arrives(ctx) {
        Ok(action) => action,
        Err(refused) => refused.reset(ctx, incoming),
    }
}
