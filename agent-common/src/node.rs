//! carry before a node's own NAT: which SYNs are given TOA, and who vouches for them.

use crate::{Endpoint, claim::Syn, ports::Ports};

/// Key of the `NODES` map: an interface by which SYNs come in.
///
/// Layout (16 bytes): netns 0..8, ifindex 8..12, padding 12..16.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Interface {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The interface.
    pub ifindex: u32,
    /// Always zero.
    pub padding: u32,
}

/// Value of the `NODES` map: which SYNs are given TOA.
///
/// Layout (8,208 bytes): rule 0..4, kind 4..8, master 8..12, padding 12..16, ports 16..8208.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// [`crate::origin::rule_id`] of the rule that vouches for the sender's address, such as `node eth0`.
    pub rule: u32,
    /// The kind of the option that carries TOA.
    pub kind: u32,
    /// The topmost device that the interface is a port of, such as a bridge; without one, the interface itself. What comes in
    /// by the interface comes to IP by this one.
    pub master: u32,
    /// Always zero.
    pub padding: u32,
    /// Destination ports.
    pub ports: Ports,
}

impl Node {
    /// No port yet.
    pub const fn new(rule: u32, kind: u8, master: u32) -> Self {
        Self {
            rule,
            kind: kind as u32,
            master,
            padding: 0,
            ports: Ports::NONE,
        }
    }
}

/// Key of the `PASSAGES` map: a SYN, identified by what NAT does not change.
///
/// Layout (24 bytes): client 0..20, isn 20..24.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Passage {
    /// The client that its TOA names.
    pub client: Endpoint,
    /// Its sequence number, host byte order.
    pub isn: u32,
}

/// What this node says about the client of a SYN.
///
/// Layout (64 bytes): source 0..20, original_dst 20..40, netns 40..48, ifindex 48..52, master 52..56, rule 56..60, evidence 60,
/// padding 61..64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Voucher {
    /// Who sent the SYN: the client, or the hop that names him.
    pub source: Endpoint,
    /// Where the client wanted to go; all zero if another hop named the client.
    pub original_dst: Endpoint,
    /// Cookie of the network namespace in which the SYN came in.
    pub netns: u64,
    /// The interface by which it came in; 0: a socket of this host sent it.
    pub ifindex: u32,
    /// [`Node::master`] of that interface.
    pub master: u32,
    /// [`crate::origin::rule_id`] of the rule: `node eth0`, or of the hop.
    pub rule: u32,
    /// An [`crate::Evidence`] as its discriminant: `snat`, or what a trusted hop said.
    pub evidence: u8,
    /// Always zero.
    pub padding: [u8; 3],
}

/// Value of the `PASSAGES` map: a voucher, and what became of it.
///
/// Layout (88 bytes): since 0..8, user 8..16, answer 16..24, voucher 24..88.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// When the SYN came in for the last time: nanoseconds of `CLOCK_BOOTTIME`.
    pub since: u64,
    /// [`user`] of the one SYN that may use the voucher, the first that did; 0: none has.
    pub user: u64,
    /// [`answer`] that went back to the client; 0: none yet.
    pub answer: u64,
    /// What this node says.
    pub voucher: Voucher,
}

impl Given {
    /// For how many nanoseconds a voucher is good. A SYN is answered at once, and whoever receives it could
    /// send its TOA again as their own.
    pub const LIFE: u64 = 1_000_000_000;
}

/// A SYN as the user of a voucher, never 0: its ends in one number. Few SYNs can have a given sequence number and come from a
/// given host to a listener of another, so that none is found that has another's number.
#[inline(always)]
pub fn user(syn: &Syn) -> u64 {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let (from, to) = (&syn.source, &syn.destination);
    let ([a, b, c, d], [e, f, g, h]) = (from.address.0, to.address.0);
    let ports = u32::from(from.port) << 16 | u32::from(to.port);
    let mut number = u64::from(syn.isn);
    for [high, low] in [[a, b], [c, d], [e, f], [g, h], [ports, 0]] {
        number = (number ^ (u64::from(high) << 32 | u64::from(low))).wrapping_mul(PRIME);
        number ^= number >> 32;
    }
    number | 1
}

/// A SYN-ACK with this sequence number (host byte order), never 0.
#[inline(always)]
pub const fn answer(sequence: u32) -> u64 {
    1 << 32 | sequence as u64
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Interface>() == 16 && size_of::<Node>() == 16 + size_of::<Ports>());
    assert!(offset_of!(Node, ports) == 16 && size_of::<Passage>() == 24);
    assert!(size_of::<Voucher>() == 64 && offset_of!(Voucher, rule) == 56);
    assert!(size_of::<Given>() == 88 && offset_of!(Given, voucher) == 24);
};

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::*;

    #[test]
    fn another_syn_is_another_user() {
        let endpoint = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap());
        let syn = Syn {
            source: endpoint("192.0.2.1:4711"),
            destination: endpoint("[2001:db8::7]:80"),
            isn: 7,
        };
        let others = [
            Syn { isn: 8, ..syn },
            Syn {
                source: endpoint("192.0.2.1:4712"),
                ..syn
            },
            Syn {
                source: endpoint("192.0.2.2:4711"),
                ..syn
            },
            Syn {
                destination: endpoint("[2001:db8::7]:81"),
                ..syn
            },
            Syn {
                source: syn.destination,
                destination: syn.source,
                ..syn
            },
        ];
        assert!(others.iter().all(|other| user(other) != user(&syn)));
    }
}
