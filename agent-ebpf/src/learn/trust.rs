//! Whom the rules `[[trust]]` believe.

use agent_common::{
    Address, Claim,
    trust::{Sender, Statement},
};

use crate::maps::{Replaced as _, TRUSTED_PORTS, TRUSTED_SOURCES, longest_match};

/// What whoever has this address is believed.
#[inline(always)]
pub(crate) fn sender(address: Address) -> Option<Sender> {
    longest_match(&TRUSTED_SOURCES, address)
}

/// The rule that believes this statement about a connection to `port`.
#[inline(always)]
pub(crate) fn rule_for(sender: &Sender, statement: Statement, port: u16) -> Option<u32> {
    sender.rule_for(statement, |rule| has_port(rule, port))
}

/// Whether a local proxy's claim is believed on a connection to `port`.
#[inline(always)]
pub(crate) fn concerns(claim: &Claim, port: u16) -> bool {
    claim.conditions & Claim::LIMITED == 0 || has_port(claim.rule, port)
}

#[inline(always)]
fn has_port(rule: u32, port: u16) -> bool {
    TRUSTED_PORTS
        .look_up(rule)
        .is_some_and(|ports| ports.has(port))
}
