//! What the data path tells the agent: counters, and records in ring buffers.

use agent_common::{Closed, Counter};
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};

use crate::maps::{COUNTERS, EVENTS, HEADERS, add};

/// Bytes of events at which the agent is woken: a quarter of the ring.
const MUCH: u64 = 1 << 20;
/// Half of the ring.
const HALF: u64 = 2 << 20;

/// Adds one to `counter` on this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a slot of the map, to which programs only add.
        unsafe { add(slot, 1) };
    }
}

/// Tells the access log that a connection has ended.
#[inline(always)]
pub(crate) fn ended(event: impl FnOnce() -> Closed) {
    log(true, event);
}

/// Tells the access log that a connection was refused. It does so only while half of the ring is free,
/// because a flood of refusals must leave room for connections that end.
#[inline(always)]
pub(crate) fn refused(event: impl FnOnce() -> Closed) {
    log(EVENTS.query(BPF_RB_AVAIL_DATA.into()) < HALF, event);
}

#[inline(always)]
fn log(is_room: bool, event: impl FnOnce() -> Closed) {
    match is_room.then(|| EVENTS.reserve::<Closed>(0)).flatten() {
        Some(mut entry) => {
            entry.write(event());
            entry.submit(wakeup());
        }
        None => count(Counter::EventsLost),
    }
}

/// Flags that wake the agent when much is waiting. It looks every now and then by itself: waking it for each
/// connection would cost more than everything else here.
#[inline(always)]
fn wakeup() -> u64 {
    if EVENTS.query(BPF_RB_AVAIL_DATA.into()) > MUCH {
        BPF_RB_FORCE_WAKEUP.into()
    } else {
        BPF_RB_NO_WAKEUP.into()
    }
}

/// Hands the agent a record of a PROXY header, which it fetches every now and then and when it is asked.
/// `false`, which is counted, if there was no room.
#[inline(always)]
pub(crate) fn header(record: &[u8]) -> bool {
    let is_told = HEADERS
        .output::<[u8]>(record, BPF_RB_NO_WAKEUP.into())
        .is_ok();
    if !is_told {
        count(Counter::HeadersLost);
    }
    is_told
}
