//! guard: allows and denies by the true client.
//!
//! It judges a connection once: by the first segment on its way to a listener, or by the PROXY header if only
//! that names the client. What was admitted is left alone.

use agent_common::{
    Address, Claim, Endpoint, Evidence, Syn,
    guard::{Policy, Prefix, Verdict},
    unwrap::Refusal,
};
use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_TCP_LISTEN},
    maps::lpm_trie::Key,
    programs::SkBuffContext,
};

use crate::{
    kernel::{
        context::Skb as _,
        opening::{Opening, Packet},
        uapi::{LOOPBACK, PASS, REJECT},
    },
    learn::{hear::hear, refused, snat, toa},
    maps::{CLAIMS, HANDOVERS, POLICIES, PREFIXES, REFUSED, Replaced as _, TALLIES, add},
};

/// Whether there is a policy for this port.
#[inline(always)]
pub(crate) fn is_guarded(port: u16) -> bool {
    policy(port).is_some()
}

#[inline(always)]
fn policy(port: u16) -> Option<Policy> {
    POLICIES.look_up(u32::from(port)).copied()
}

/// Whether the client may connect to this port. Counts nothing.
#[inline(never)]
pub(crate) fn allows(client: &Address, port: u16) -> bool {
    let Some(policy) = policy(port) else {
        return true;
    };
    let key = Key::new(Prefix::BITS, Prefix::new(policy.group, *client));
    let verdict = PREFIXES.get(key).copied().unwrap_or(policy.otherwise);
    verdict == Verdict::Allow as u32
}

/// Counts an admitted connection.
#[inline(always)]
pub(crate) fn admitted(port: u16) {
    if let Some(policy) = policy(port) {
        tally(policy.rule, Verdict::Allow);
    }
}

/// Counts a refused connection and tells the access log.
#[inline(never)]
pub(crate) fn refused(claim: &Claim, source: &Endpoint, destination: &Endpoint) {
    if let Some(policy) = policy(destination.port) {
        tally(policy.rule, Verdict::Deny);
        refused::log(claim, source, destination, Refusal::Denied, policy.rule);
    }
}

#[inline(always)]
fn tally(rule: u32, verdict: Verdict) {
    if let Some(tally) = TALLIES.get_ptr_mut(rule) {
        // SAFETY: a value of the map, to which programs only add.
        unsafe { add(&raw mut (*tally)[verdict as usize], 1) };
    }
}

/// Handles one packet on its way to a socket and returns the answer for it.
#[inline(always)]
pub(crate) fn ingress(ctx: &SkBuffContext) -> i32 {
    if ctx.socket_state() == Some(BPF_TCP_LISTEN) {
        to_listener(ctx)
    } else {
        PASS
    }
}

/// Whether the packet is for a listener of the agent's own relay, which judges by itself because it must read
/// a header first.
#[inline(always)]
fn is_relays(ctx: &SkBuffContext) -> bool {
    let claim = ctx.socket().and_then(|sk| CLAIMS.get(sk.cast()));
    claim.is_some_and(|claim| claim.rule == 0)
}

/// Fills in `claim` with what was said about the client of a connection that is being made; `false`: nothing that concerns it.
/// What is believed in the speaker's own network namespace only comes by the loopback interface there.
#[inline(never)]
fn recall(ctx: &SkBuffContext, syn: &Syn, claim: &mut Claim) -> bool {
    let Some(told) = HANDOVERS.look_up(syn) else {
        return false;
    };
    // Copied first, as the entry's memory may become another connection's.
    *claim = *told;
    let concerns = claim.netns == 0 || ctx.ifindex() == LOOPBACK;
    if !concerns {
        *claim = Claim::default();
    }
    concerns
}

/// Whether the SYN was admitted for a client to whom its answer did not go.
#[inline(never)]
fn is_anothers(ctx: &SkBuffContext, opening: &Opening) -> bool {
    let Opening { syn, answer, .. } = opening;
    let mut claim = Claim::default();
    is_guarded(syn.destination.port)
        && !is_relays(ctx)
        && recall(ctx, syn, &mut claim)
        && claim.names_client()
        && !snat::is_confirmed(&claim, syn, *answer)
}

/// Judges a segment to a listener: the first of a connection, or one that completes its handshake.
#[inline(always)]
fn to_listener(ctx: &SkBuffContext) -> i32 {
    let mut opening = Opening::default();
    match opening.read(ctx) {
        Packet::Opens => {}
        Packet::Completes if is_anothers(ctx, &opening) => return REJECT,
        Packet::Completes => return PASS,
        Packet::Other => return PASS,
        // A packet that cannot be read cannot be judged.
        Packet::Unreadable => return REJECT,
    }
    let Opening { syn, offset, .. } = &opening;
    if !is_guarded(syn.destination.port) || is_relays(ctx) {
        return PASS;
    }
    let mut claim = Claim::default();
    if recall(ctx, syn, &mut claim) && !claim.names_client() {
        // A PROXY header will name the client.
        return PASS;
    }
    // Whoever hears for the listener counts TOA that is refused.
    if toa::kinds().is_some() && hear(&ctx.skb, *offset, syn, &mut claim).is_some() {
        recall(ctx, syn, &mut claim);
    }
    if !claim.names_client() {
        claim.client = syn.source;
        claim.evidence = Evidence::Wire as u8;
    }
    if allows(&claim.client.address, syn.destination.port) {
        admitted(syn.destination.port);
        return PASS;
    }
    // Otherwise this is a repeated SYN.
    if REFUSED.insert(syn, &0, BPF_NOEXIST.into()).is_ok() {
        refused(&claim, &syn.source, &syn.destination);
    }
    REJECT
}
