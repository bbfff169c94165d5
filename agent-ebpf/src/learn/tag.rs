//! The tag of signed TOA: made where TOA is sent, and verified once where it is read.

use agent_common::{
    Claim, Counter, Endpoint, Syn, options,
    tag::{self, Keys, Signed, Spending, has_expired},
    tcp::Header,
    toa::Kinds,
};
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};

use crate::{
    kernel::clock::boottime,
    maps::{HANDOVERS, KEYS, Replaced as _, SPENDING, SPENT},
};

/// How many entries of `SPENT` are examined for each new one, so that more can expire than are made.
const FORGOTTEN: usize = 2;

#[inline(always)]
fn keys() -> Option<&'static Keys> {
    KEYS.look_up(0)
}

/// Whether TOA that is sent is to be signed.
#[inline(always)]
pub(crate) fn is_wanted() -> bool {
    keys().is_some()
}

/// The option that signs TOA for `client` on a SYN with this sequence number, or `None` without a key.
#[inline(always)]
pub(crate) fn sign(client: Endpoint, isn: u32) -> Option<[u8; tag::LEN as usize]> {
    let keys = keys()?;
    let signed = Signed { client, isn };
    Some(tag::option(keys.sign(&signed, keys.epoch(boottime()))))
}

/// Lets the tag on a SYN prove its TOA. The claim is handed over at once, by which the same SYN is recognized
/// when it comes again. On another connection, or once its own is established, the tag proves nothing.
#[inline(always)]
pub(crate) fn prove(
    header: &Header,
    kinds: &Kinds,
    syn: &Syn,
    claim: &Claim,
) -> Result<(), Counter> {
    let tag = options::tag(header, kinds).ok_or(Counter::ToaUnsigned)?;
    spend(tag, syn, claim)
}

#[inline(never)]
fn spend(tag: u64, syn: &Syn, claim: &Claim) -> Result<(), Counter> {
    let keys = keys().ok_or(Counter::ToaForged)?;
    let now = keys.epoch(boottime());
    let mut spending = Spending {
        epoch: 0,
        signed: Signed {
            client: claim.client,
            isn: syn.isn,
        },
    };
    let epoch = keys.verify(tag, &spending.signed, now);
    // Until the connection is established the SYN may be sent again, signed anew.
    spending.epoch = epoch.ok_or(Counter::ToaForged)? + 1;
    let Some(last) = SPENT.look_up(&spending.signed) else {
        forget_expired(now);
        // The queue comes first, because an entry that is not in the queue would stay.
        let queued = SPENDING.push(&spending, 0);
        queued.map_err(|_| Counter::ToaFull)?;
        let spent = SPENT.insert(&spending.signed, &spending.epoch, BPF_NOEXIST.into());
        spent.map_err(|_| Counter::ToaReplayed)?;
        let _ = HANDOVERS.insert(syn, claim, BPF_ANY.into());
        return Ok(());
    };
    let handed_over = HANDOVERS.look_up(syn);
    if handed_over.is_none_or(|known| known.client != claim.client) {
        return Err(Counter::ToaReplayed);
    }
    prolong(&spending, *last);
    Ok(())
}

/// The connection is established. Remembers its tag for as long as one may still be under way from a sender
/// whose clock is as far ahead as it may be.
#[inline(never)]
pub(crate) fn used(client: Endpoint, isn: u32) {
    let Some(keys) = keys() else { return };
    let spending = Spending {
        epoch: keys.epoch(boottime()) + 1,
        signed: Signed { client, isn },
    };
    if let Some(last) = SPENT.look_up(&spending.signed) {
        prolong(&spending, *last);
    }
}

/// Remembers for longer what was remembered until the epoch `last`, so that no tag outlives its memory.
#[inline(always)]
fn prolong(spending: &Spending, last: u64) {
    if spending.epoch > last {
        let _ = SPENT.insert(&spending.signed, &spending.epoch, BPF_ANY.into());
        let _ = SPENDING.push(spending, 0);
    }
}

/// Forgets the oldest tags if they have expired.
#[inline(never)]
fn forget_expired(now: u64) {
    for _ in 0..FORGOTTEN {
        let Ok(Some(oldest)) = SPENDING.peek() else {
            return;
        };
        if !has_expired(oldest.epoch, now) {
            return;
        }
        let Ok(Some(oldest)) = SPENDING.pop() else {
            return;
        };
        if !has_expired(oldest.epoch, now) {
            // Another CPU took the entry that was examined.
            let _ = SPENDING.push(oldest, 0);
            return;
        }
        let last = SPENT.look_up(oldest.signed);
        if last.is_some_and(|epoch| has_expired(*epoch, now)) {
            let _ = SPENT.remove(oldest.signed);
        }
    }
}
