//! unwrap: takes a PROXY header off the stream with no proxy.
//!
//! The server gets a SYN whose sequence number is the header's length ahead, so that its stream begins behind
//! the header. Nothing else from the sender reaches it until the segment with the header comes. That one
//! completes the handshake, and TCP trims its first bytes, because they lie before the server's window. From
//! then on nothing is changed, unless the header has a length other than the expected one.

pub(crate) mod answer;
mod craft;
mod fast_open;
mod header;
mod incoming;
mod refuse;
mod speaker;
mod stream;
mod tlvs;
pub(crate) mod translate;
mod turn;
mod whereabouts;

use agent_common::Counter;
use aya_ebpf::{
    bindings::tcx_action_base::{TCX_DROP, TCX_NEXT},
    programs::TcContext,
};

use self::{incoming::Incoming, stream::Outcome};
use crate::tell::count;

/// Handles one packet at tc ingress and returns the action for it.
#[inline(always)]
pub(crate) fn ingress(ctx: &TcContext) -> i32 {
    let Some(incoming) = Incoming::read(ctx) else {
        return TCX_NEXT;
    };
    match incoming.arrives(ctx) {
        Outcome::Passes => TCX_NEXT,
        Outcome::Dropped => TCX_DROP,
        Outcome::Hidden => {
            count(Counter::UnwrapHidden);
            TCX_DROP
        }
        Outcome::Refused(reason) => incoming.reset(ctx, reason),
    }
}
