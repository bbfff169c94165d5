//! Which client `X-Forwarded-For` names, decided as Envoy decides it.
//!
//! A count of hops means what Envoy's `use_remote_address` with `xff_num_trusted_hops` means, and rules mean
//! what its extension `original_ip_detection.xff` with `xff_trusted_cidrs` means. Where the header does not
//! tell, the client is the peer that connects. Unlike Envoy, it reads entries with ports or
//! brackets, as Azure's gateways write them, and takes IPv4-mapped ones for IPv4.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use agent_common::trust::Statement;

use crate::config::TrustedSenders;

/// How many entries a header may have for the walk by prefixes, which reads none of a longer one (Envoy's
/// bound).
const MAX_ENTRIES: usize = 20;

/// The hops that are trusted to have told the truth.
#[derive(Clone, Copy, Debug)]
pub enum Hops<'a> {
    /// As many in front of this one.
    Count(u32),
    /// Those that rules believe on the port to which the client connected.
    Trusted {
        /// What the rules believe of whom.
        senders: &'a TrustedSenders,
        /// The port.
        port: u16,
    },
}

impl Hops<'_> {
    /// Whether the peer that connects is among them.
    pub fn trust(self, peer: IpAddr) -> bool {
        match self {
            Self::Count(count) => count > 0,
            Self::Trusted { senders, port } => {
                senders.rule_for(peer, Statement::Xff, port).is_some()
            }
        }
    }

    /// The client that the header names, with port 0 where it tells none. `None`: the peer that connects is the client itself, or nothing
    /// better is known.
    ///
    /// `forwarded_for` is the header's value as it came in, its lines joined by commas.
    pub fn client(self, forwarded_for: &[u8], peer: IpAddr) -> Option<SocketAddr> {
        if !self.trust(peer) {
            return None;
        }
        let mut from_the_right = forwarded_for.rsplit(|byte| *byte == b',').map(address);
        match self {
            Self::Count(count) => from_the_right.nth(count as usize - 1)?,
            Self::Trusted { .. } => {
                let commas = forwarded_for.iter().filter(|byte| **byte == b',');
                if commas.count() >= MAX_ENTRIES {
                    return None;
                }
                let mut last = None;
                for entry in from_the_right {
                    // Nobody can tell who is behind an entry that cannot be read.
                    last = Some(entry?);
                    if !self.trust(entry?.ip()) {
                        break;
                    }
                }
                last
            }
        }
    }
}

/// The address in an entry, which may have blanks around it: with a port, without, or an IPv6 address in brackets.
fn address(entry: &[u8]) -> Option<SocketAddr> {
    let entry = std::str::from_utf8(entry.trim_ascii()).ok()?;
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, 0));
    }
    let bare = entry
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    match bare {
        Some(bare) => Some(SocketAddr::new(bare.parse::<Ipv6Addr>().ok()?.into(), 0)),
        // A zone means something on the host that wrote it, and nothing here (RFC 4007, 6).
        None => entry.parse().ok().filter(|_| !entry.contains('%')),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn senders() -> TrustedSenders {
        let text = "[[trust]]\nsource = [\"10.0.0.0/8\", \"fd00::/8\"]\nsays = [\"xff\"]\n";
        TrustedSenders::new(&Config::parse(text, "test").unwrap().trust)
    }

    fn trusted(senders: &TrustedSenders) -> Hops<'_> {
        Hops::Trusted { senders, port: 80 }
    }

    /// The client as text, with its port if the header tells one.
    fn shown(client: SocketAddr) -> String {
        match client.port() {
            0 => client.ip().to_string(),
            _ => client.to_string(),
        }
    }

    fn by_count(count: u32, header: &str) -> Option<String> {
        let client = Hops::Count(count).client(header.as_bytes(), PEER)?;
        Some(shown(client))
    }

    fn by_prefixes(header: &str) -> Option<String> {
        let client = trusted(&senders()).client(header.as_bytes(), PEER)?;
        Some(shown(client))
    }

    #[test]
    fn the_nth_from_the_right_is_the_client() {
        let header = "6.6.6.6, 203.0.113.7,2001:db8::1";
        assert_eq!(by_count(0, header), None);
        assert_eq!(by_count(1, header).unwrap(), "2001:db8::1");
        assert_eq!(by_count(2, header).unwrap(), "203.0.113.7");
        assert_eq!(by_count(3, header).unwrap(), "6.6.6.6");
        assert_eq!(by_count(4, header), None);
        for junk in [
            "",
            "203.0.113.7,",
            "unknown",
            "203.0.113.7:",
            "203.0.113.7:65536",
            "[203.0.113.7]",
            "[2001:db8::1",
            "[2001:db8::1]:",
            "[fe80::1%1]:443",
            "203.0.113.07",
            "203.0.113",
            "\u{fc}",
        ] {
            assert_eq!(by_count(1, junk), None, "{junk}");
        }
    }

    #[test]
    fn entries_may_have_ports_and_brackets() {
        for entry in ["203.0.113.7:51812", "[2001:db8::1]:443"] {
            assert_eq!(by_count(1, entry).unwrap(), entry);
        }
        assert_eq!(by_count(1, "[2001:db8::1]").unwrap(), "2001:db8::1");
        assert_eq!(
            by_prefixes("203.0.113.7:5,10.1.1.1:6").unwrap(),
            "203.0.113.7:5"
        );
    }

    #[test]
    fn the_walk_ends_at_the_first_that_is_not_trusted() {
        for (header, client) in [
            ("203.0.113.7", Some("203.0.113.7")),
            ("6.6.6.6,203.0.113.7 , 10.1.1.1", Some("203.0.113.7")),
            ("6.6.6.6,2001:db8::1,fd00::1,10.1.1.1", Some("2001:db8::1")),
            ("10.2.2.2,10.1.1.1", Some("10.2.2.2")),
            ("junk,203.0.113.7,10.1.1.1", Some("203.0.113.7")),
            ("203.0.113.7,junk,10.1.1.1", None),
            ("203.0.113.7,", None),
            ("", None),
        ] {
            assert_eq!(by_prefixes(header).as_deref(), client, "{header}");
        }
        let many = |n: usize| vec!["10.1.1.1"; n].join(",");
        assert!(by_prefixes(&many(MAX_ENTRIES)).is_some());
        assert_eq!(by_prefixes(&many(MAX_ENTRIES + 1)), None);
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(|octets| Ipv4Addr::from(octets).into()),
            any::<[u8; 3]>().prop_map(|[a, b, c]| Ipv4Addr::new(10, a, b, c).into()),
            any::<[u8; 16]>().prop_map(|octets| Ipv6Addr::from(octets).into()),
        ]
    }

    fn header(entries: &[IpAddr]) -> Vec<u8> {
        let entries: Vec<_> = entries.iter().map(IpAddr::to_string).collect();
        entries.join(", ").into_bytes()
    }

    proptest! {
        #[test]
        fn what_the_client_claims_changes_nothing(
            forged in prop::collection::vec(any::<u8>(), 0..64),
            client in any_address(),
            hops in prop::collection::vec(any_address(), 0..4),
        ) {
            // The client sends `forged`; each hop appends who connected to it.
            let mut entries = vec![client];
            entries.extend(&hops);
            let honest = header(&entries);
            let whole = [&forged[..], b",", &honest].concat();
            let count = Hops::Count(entries.len() as u32);
            let named = |hops: Hops<'_>| hops.client(&whole, PEER).map(|client| client.ip());
            prop_assert_eq!(named(count), Some(client));

            let senders = senders();
            let trusted = trusted(&senders);
            let outside = entries.iter().rev().find(|entry| !trusted.trust(**entry));
            let commas = whole.iter().filter(|byte| **byte == b',').count();
            if let Some(outside) = outside && commas < MAX_ENTRIES {
                prop_assert_eq!(named(trusted), Some(*outside));
            }
        }

        #[test]
        fn nothing_is_believed_of_a_stranger(header in prop::collection::vec(any::<u8>(), 0..64)) {
            let stranger = "192.0.2.1".parse().unwrap();
            prop_assert_eq!(Hops::Count(0).client(&header, stranger), None);
            prop_assert_eq!(trusted(&senders()).client(&header, stranger), None);
        }

        #[test]
        fn any_bytes_name_an_address_that_is_there_or_none(
            header in prop::collection::vec(any::<u8>(), 0..200),
            count in 0_u32..8,
        ) {
            let senders = senders();
            for hops in [Hops::Count(count), trusted(&senders)] {
                if let Some(client) = hops.client(&header, PEER) {
                    let mut entries = header.split(|byte| *byte == b',');
                    prop_assert!(entries.any(|entry| address(entry) == Some(client)));
                }
            }
        }
    }
}
