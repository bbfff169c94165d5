//! Who sends a PROXY header: whoever sends the packets, or the client whom TOA on the SYN, this node or a local proxy's bind
//! names.

use agent_common::{
    Claim, Evidence, Syn,
    unwrap::{Handshake, Refusal},
};
use aya_ebpf::{macros::map, programs::TcContext};

use super::incoming::Incoming;
use crate::{
    learn::{hear::hear, tag, toa},
    maps::{HANDOVERS, NETNS, Replaced as _, Scratch},
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
    /// Reads what is said about the client of a SYN, before the sequence number is changed by which it is found and proven.
    /// The claim names a client if that will send the header instead of the sender of the packets. `None` cannot happen.
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
            // TOA that is not believed is counted when the SYN is answered: a tag as forged, as it is judged there by the
            // changed number.
            let _ = hear(&ctx.skb, self.offset as u32, syn, speaker);
        }
        if !speaker.names_client() {
            ask_proxy(syn, speaker);
        }
        Some(speaker)
    }

    /// The header comes. If a tag has proven who sends it, the tag proves nothing any more when the SYN comes again.
    #[inline(never)]
    pub(super) fn use_tag(&self, handshake: &Handshake) {
        let syn = self.syn(*handshake);
        let Some(told) = HANDOVERS.look_up(syn).copied() else {
            return;
        };
        if told.is_signed != 0 && told.is_pending != 0 {
            tag::used(told.client, handshake.isn);
            // By the number that the sender gave it, not the one that the server sees.
            let _ = HANDOVERS.remove(Syn {
                isn: handshake.isn,
                ..syn
            });
        }
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

/// Fills in `speaker` with what a local proxy says about the client of this SYN, if it is believed here.
#[inline(never)]
fn ask_proxy(syn: &Syn, speaker: &mut Claim) {
    if let Some(claim) = HANDOVERS.look_up(syn).copied()
        && claim.names_client()
        && claim.holds_in(NETNS.load())
    {
        *speaker = claim;
    }
}
