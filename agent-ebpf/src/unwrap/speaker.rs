//! Who sends a PROXY header: whoever sends the packets, or the client whom TOA on the SYN, this node or a local proxy's bind
//! names.

use agent_common::{
    Claim, Evidence, Syn,
    unwrap::{Handshake, Refusal},
};
use aya_ebpf::{macros::map, programs::TcContext};

use super::incoming::Incoming;
use crate::{
    learn::{hear::hear, snat, tag, toa},
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

    /// Fills in `claim` with who sends the header of this connection, as a pending claim. Returns the refusal as its number.
    #[inline(never)]
    pub(super) fn speaker(&self, handshake: &Handshake, claim: &mut Claim) -> u32 {
        Refusal::number(self.find_speaker(handshake, claim))
    }

    #[inline(always)]
    fn find_speaker(&self, handshake: &Handshake, claim: &mut Claim) -> Result<(), Refusal> {
        if handshake.is_told != 0 {
            let mut syn = self.syn(*handshake);
            *claim = HANDOVERS.look_up(&syn).copied().ok_or(Refusal::Full)?;
            // By the number that the sender gave it.
            syn.isn = handshake.isn;
            let answer = self.tcp.acknowledgment.wrapping_sub(1);
            if !snat::is_confirmed(claim, &syn, answer) {
                return Err(Refusal::Untrusted);
            }
            claim.conditions |= Claim::CONFIRMED;
        } else {
            *claim = Claim {
                client: self.connection.source,
                original_dst: self.connection.destination,
                rule: handshake.rule,
                evidence: Evidence::Proxy as u8,
                ..Claim::default()
            };
        }
        claim.is_pending = 1;
        Ok(())
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
