//! What a hop says about its client, and what the kernel finds it by.

use crate::{
    Endpoint,
    trust::{LocalProxy, Reach},
};

/// What a trusted hop says about its client: value of the `CLAIMS` socket storage, for a local proxy's
/// socket, and of the `HANDOVERS` map.
///
/// Layout (64 bytes): client 0..20, original_dst 20..40, rule 40..44, evidence 44, is_signed 45, is_pending 46, conditions 47,
/// header 48..56, netns 56..64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The client; port 0 where the proxy named none.
    pub client: Endpoint,
    /// Where the client wanted to go; all zero where nobody said.
    pub original_dst: Endpoint,
    /// [`crate::origin::rule_id`] of the rule that trusts the hop: `uid 1337`, `source 10.0.0.0/8`. 0 on the
    /// sockets of the agent's own relay.
    pub rule: u32,
    /// An [`crate::Evidence`] as its discriminant; 0 while the client is not known yet: a proxy's socket
    /// may name one but has not, or a PROXY header is still to come and nobody told who sends it.
    pub evidence: u8,
    /// 1 if a tag proves the claim, else 0.
    pub is_signed: u8,
    /// 1 while a PROXY header is still to come, so that the claim only tells who will send it; else 0.
    pub is_pending: u8,
    /// On what terms a connection tells of the claim, in `CLAIMS`: [`Claim::CARRIED`] to [`Claim::RELAYED`]. What is known of it,
    /// in `HANDOVERS`: [`Claim::CONFIRMED`].
    pub conditions: u8,
    /// Number of the PROXY header that says more about the connection ([`crate::event::Header`]); 0: none.
    pub header: u64,
    /// Cookie of the network namespace in which the claim is believed; 0: in all of this host.
    pub netns: u64,
}

impl Claim {
    /// Other hosts are told, too.
    pub const CARRIED: u8 = 1;
    /// Only connections to the ports that the map `TRUSTED_PORTS` has for the rule tell of it.
    pub const LIMITED: u8 = 2;
    /// A connection whose client the application's socket cannot express is refused.
    pub const EXPRESSED: u8 = 4;
    /// The agent's relay makes the connection, and tells itself why it fails.
    pub const RELAYED: u8 = 8;
    /// The answer to the SYN has gone to whom this node vouches for.
    pub const CONFIRMED: u8 = 16;

    /// What a process that is believed so far says, in the network namespace with the cookie `netns`: nobody yet.
    #[inline(always)]
    pub fn of_proxy(proxy: LocalProxy, netns: u64) -> Self {
        let mut claim = Self {
            rule: proxy.rule,
            ..Self::default()
        };
        if proxy.reach == Reach::Namespace as u8 {
            claim.netns = netns;
        }
        if proxy.reach == Reach::Carry as u8 {
            claim.conditions |= Self::CARRIED;
        }
        if proxy.limited != 0 {
            claim.conditions |= Self::LIMITED;
        }
        if proxy.expressed != 0 {
            claim.conditions |= Self::EXPRESSED;
        }
        claim
    }

    /// Whether the client is known.
    #[inline(always)]
    pub const fn names_client(&self) -> bool {
        self.evidence != 0 && self.is_pending == 0
    }

    /// Whether the claim is believed in the network namespace with this cookie.
    #[inline(always)]
    pub const fn holds_in(&self, netns: u64) -> bool {
        self.netns == 0 || self.netns == netns
    }

    /// The client of a connection whose sender has `port` (host byte order) on the wire. A proxy that binds to
    /// an address alone leaves the port to the kernel, as if it had spoofed the address.
    #[inline(always)]
    pub const fn client_behind(&self, port: u16) -> Endpoint {
        let port = match self.client.port {
            0 => port,
            port => port,
        };
        Endpoint::new(self.client.address, port)
    }
}

/// Key of the `HANDOVERS` map: a SYN that carries a claim, from a trusted proxy on this host, with TOA or to a
/// port where a PROXY header is taken off. The initial sequence number keeps a reused port from naming another
/// client.
///
/// Layout (44 bytes): source 0..20, destination 20..40, isn 40..44.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Syn {
    /// Where it comes from, as on the wire.
    pub source: Endpoint,
    /// Where it goes to.
    pub destination: Endpoint,
    /// Its sequence number, host byte order.
    pub isn: u32,
}

/// A connection as its packets name it: key of the `OWN` map, which holds those that sockets of this host are
/// making, and of the maps of unwrapped connections.
///
/// Layout (48 bytes): netns 0..8, source 8..28, destination 28..48.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// Where it comes from: perhaps a client's address that a proxy took.
    pub source: Endpoint,
    /// Where it goes to.
    pub destination: Endpoint,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Claim>() == 64 && offset_of!(Claim, rule) == 40);
    assert!(offset_of!(Claim, evidence) == 44 && offset_of!(Claim, header) == 48);
    assert!(size_of::<Syn>() == 44 && offset_of!(Syn, isn) == 40);
    assert!(size_of::<Connection>() == 48 && offset_of!(Connection, source) == 8);
};

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::*;

    #[test]
    fn a_claim_without_a_port_takes_the_wires() {
        let endpoint = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap());
        let claim = |client| Claim {
            client: endpoint(client),
            ..Claim::default()
        };
        let named = claim("203.0.113.7:51812").client_behind(9);
        assert_eq!(named, endpoint("203.0.113.7:51812"));
        let unnamed = claim("203.0.113.7:0").client_behind(9);
        assert_eq!(unnamed, endpoint("203.0.113.7:9"));
    }
}
