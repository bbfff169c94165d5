//! Session affinity: of a steer's several listeners, a client always gets the same one.

use agent_common::{
    Address, ListenerKey, Range,
    affinity::{MAX_LISTENERS, choose},
    global,
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
    let n = choose(client, truepeer_listening(&first, range.further.into()));
    range.to + n.unwrap_or(0) as u16
}

global! {
    /// Which of the listeners are there, one bit each: the first and the `further` ones.
    fn truepeer_listening(first: *const ListenerKey, further: u32) -> u32 {
        if first.is_null() {
            return 0;
        }
        let mut listening = 0;
        let mut n = 0;
        // With a second bound, LLVM would leave the loop where a number equals the lower one, which Linux 6.1 does not
        // understand.
        while n < MAX_LISTENERS {
            listening |= (truepeer_listens(first, further, n) & 1) << n;
            n += 1;
        }
        listening
    }
}

global! {
    /// 1 if the `n`th listener behind the first is one of the `further` ones, and there, else 0.
    fn truepeer_listens(first: *const ListenerKey, further: u32, n: u32) -> u32 {
        // SAFETY: pointers of a global function lead to one value each.
        let Some(mut key) = (unsafe { first.as_ref() }).copied() else {
            return 0;
        };
        if n > further {
            return 0;
        }
        key.port += n;
        let is_there = is_listening(&key);
        if key.family != AF_INET {
            return is_there;
        }
        // An IPv4 connection may belong to a dual-stack listener.
        key.family = AF_INET6;
        is_there | is_listening(&key)
    }
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
