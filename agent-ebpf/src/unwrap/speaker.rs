//! Who sends a PROXY header: whoever sends the packets, or the client whom TOA on the SYN or this node names.

use agent_common::{
    Claim, Evidence, Syn,
    unwrap::{Handshake, Refusal},
};
use aya_ebpf::{macros::map, programs::TcContext};

use super::incoming::Incoming;
use crate::{
    learn::{hear::hear, toa},
    maps::{HANDOVERS, Replaced as _, Scratch},
};

/// A SYN, and who speaks on its connection. On the stack they would take too much room.
#[repr(C)]
struct Heard {
    syn: Syn,
    speaker: Claim,
}

#[map]
static HEARD: Scratch<Heard> = Scratch::new();

impl Incoming {
    /// Reads TOA on a SYN, before the sequence number is changed by which it is proven. The claim names a client if
    /// that will send the header instead of the sender of the packets. `None` cannot happen.
    #[inline(never)]
    pub(super) fn hear(&self, ctx: &TcContext) -> Option<&'static mut Claim> {
        let Heard { syn, speaker } = HEARD.get()?;
        *syn = Syn {
            source: self.connection.source,
            destination: self.connection.destination,
            isn: self.tcp.sequence,
        };
        *speaker = Claim::default();
        if toa::kinds().is_some() {
            // TOA that is not believed is not believed when the SYN is answered either, which counts it.
            let _ = hear(&ctx.skb, self.offset as u32, syn, speaker);
        }
        Some(speaker)
    }

    /// Who sends the header of this connection, as a pending claim.
    #[inline(always)]
    pub(super) fn speaker(&self, handshake: Handshake) -> Result<Claim, Refusal> {
        let mut claim = if handshake.is_told != 0 {
            let told = HANDOVERS.look_up(self.syn(handshake)).copied();
            told.ok_or(Refusal::Full)?
        } else {
            Claim {
                client: self.connection.source,
                original_dst: self.connection.destination,
                rule: handshake.rule,
                evidence: Evidence::Proxy as u8,
                ..Claim::default()
            }
        };
        claim.is_pending = 1;
        Ok(claim)
    }
}
