//! Connections that are refused although their client is known.

use agent_common::{Claim, Closed, Endpoint, Origin, unwrap::Refusal};

use crate::{kernel::clock::boottime, tell};

/// Tells the access log of a connection between these ends that is refused for this reason, by a policy or by none (0).
#[inline(always)]
pub(crate) fn log(
    claim: &Claim,
    source: &Endpoint,
    destination: &Endpoint,
    reason: Refusal,
    policy: u32,
) {
    let now = boottime();
    tell::refused(|| Closed {
        origin: Origin {
            since: now,
            client: claim.client,
            original_dst: *destination,
            local: *destination,
            remote: *source,
            evidence: claim.evidence,
            rule: claim.rule,
            ..Origin::default()
        },
        closed: now,
        refused: reason as u32,
        policy,
        ..Closed::default()
    });
}
