//! Session affinity: of a steer's several listeners, a client always gets the same one.

use core::ptr::read_volatile;

use agent_common::{
    Address, ListenerKey, Range,
    affinity::{MAX_LISTENERS, choose},
};
use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_map_lookup_elem, bpf_sk_release},
};

use crate::{
    kernel::uapi::{AF_INET, AF_INET6},
    maps::PROXIES,
};

/// The port of the listener for this client's connection, which is of `family`; the first listener's port if
/// none listens.
#[inline(always)]
pub(super) fn listener_port(range: &Range, netns: u64, family: u32, client: &Address) -> u16 {
    if range.further == 0 {
        return range.to;
    }
    let first = ListenerKey {
        netns,
        port: range.to.into(),
        family,
    };
    let word = client.0[3];
    // SAFETY: a reference is valid for reads.
    let veil = word ^ unsafe { read_volatile(&word) };
    let n = choose(client, listening(&first, range.further.into(), veil));
    range.to + n.unwrap_or(0) as u16
}

/// Which of the listeners are there, one bit each: the first and the `further` ones. `veil` is a zero that
/// the verifier does not know to be one; otherwise it would follow the rest of the program once for each set
/// of listeners.
#[inline(never)]
fn listening(first: &ListenerKey, further: u32, veil: u32) -> u32 {
    let mut listening = 0;
    for n in 0..MAX_LISTENERS {
        if n > further {
            break;
        }
        let mut key = ListenerKey {
            port: first.port + n,
            ..*first
        };
        let mut is_there = is_listening(&key);
        if first.family == AF_INET {
            // An IPv4 connection may belong to a dual-stack listener.
            key.family = AF_INET6;
            is_there |= is_listening(&key);
        }
        listening |= ((is_there ^ veil) & 1) << n;
    }
    listening
}

/// 1 if a listener is known by this key, else 0.
#[inline(always)]
fn is_listening(key: &ListenerKey) -> u32 {
    // SAFETY: the map has such keys; what it answers with is null or a socket, to be released once.
    unsafe {
        let map = core::ptr::from_ref(&PROXIES).cast_mut().cast();
        let sk: *mut bpf_sock = bpf_map_lookup_elem(map, core::ptr::from_ref(key).cast()).cast();
        if sk.is_null() {
            return 0;
        }
        bpf_sk_release(sk.cast());
    }
    1
}
