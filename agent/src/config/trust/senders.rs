//! Whom the rules believe of those who send packets: what the data path and the relays look up.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use agent_common::{
    ports::Ports,
    trust::{Sender, Statement},
};
use ipnet::{IpNet, Ipv4Net};

use super::rule::{Speakers, Trust};

/// An IPv4 address in its form as an IPv6 address (RFC 4291, 2.5.5.2).
const MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
const ALL_OF_IPV4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

/// What each prefix is believed, by all rules together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedSenders {
    prefixes: HashMap<IpNet, Sender>,
    ports: HashMap<u32, Box<Ports>>,
}

impl TrustedSenders {
    /// Takes the rules together.
    pub fn new(rules: &[Trust]) -> Self {
        let mut all = Self::default();
        for rule in rules {
            let limited = !rule.ports.is_empty();
            if limited {
                let mut ports = Box::new(Ports::NONE);
                let numbers = rule.ports.iter().cloned().flatten();
                numbers.for_each(|port| ports.add(port));
                let named = rule.rules().into_iter();
                all.ports
                    .extend(named.map(|named| (named.id, ports.clone())));
            }
            let Speakers::Sources {
                prefixes,
                says,
                signed,
            } = &rule.speakers
            else {
                continue;
            };
            for prefix in prefixes {
                let sender = all.prefixes.entry(*prefix).or_default();
                for statement in says {
                    sender.believe(*statement, rule.of_prefix(prefix).id, limited);
                }
                if *signed {
                    sender.demand_signature();
                }
            }
        }
        // IPv4 lies within `::/0` where addresses have one form (`::ffff:0:0/96`), but a rule about IPv6 does not mean it.
        if all.prefixes.keys().any(|prefix| prefix.contains(&MAPPED)) {
            all.prefixes.entry(ALL_OF_IPV4).or_default();
        }
        all
    }

    /// The prefixes, each with what it is believed.
    pub fn prefixes(&self) -> impl Iterator<Item = (IpNet, Sender)> + '_ {
        self.prefixes
            .iter()
            .map(|(prefix, sender)| (*prefix, *sender))
    }

    /// The ids of rules that concern some ports only, with the ports.
    pub fn ports(&self) -> impl Iterator<Item = (u32, &Ports)> + '_ {
        self.ports.iter().map(|(rule, ports)| (*rule, &**ports))
    }

    /// Id of the rule that believes a speaker's statement about a connection to `port`: the longest prefix decides.
    pub fn rule_for(&self, speaker: IpAddr, statement: Statement, port: u16) -> Option<u32> {
        self.rule_of(self.around(speaker)?, statement, port)
    }

    /// Whether a rule is about this speaker, whatever it believes.
    pub fn concern(&self, speaker: IpAddr) -> bool {
        self.around(speaker).is_some()
    }

    /// What the longest prefix is believed that the speaker is in.
    fn around(&self, speaker: IpAddr) -> Option<&Sender> {
        let speaker = speaker.to_canonical();
        let around = self
            .prefixes
            .iter()
            .filter(|(prefix, _)| prefix.contains(&speaker));
        around
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map(|(_, sender)| sender)
    }

    /// Whether a rule believes this statement of anybody about a connection to `port`.
    pub fn believe(&self, statement: Statement, port: u16) -> bool {
        let believed = |sender: &Sender| self.rule_of(sender, statement, port).is_some();
        self.prefixes.values().any(believed)
    }

    fn rule_of(&self, sender: &Sender, statement: Statement, port: u16) -> Option<u32> {
        sender.rule_for(statement, |rule| {
            self.ports.get(&rule).is_some_and(|ports| ports.has(port))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn senders() -> TrustedSenders {
        let text = r#"
            [[trust]]
            name = "edge"
            source = ["192.0.2.0/28", "2001:db8::/32"]
            says = ["proxy"]
            ports = ["443", "8000-8099"]
            [[trust]]
            source = ["192.0.2.0/24"]
            says = ["toa", "xff"]
            [[trust]]
            source = ["192.0.2.8/32"]
            says = []
            [[trust]]
            source = ["::/0"]
            says = ["xff"]
        "#;
        TrustedSenders::new(&Config::parse(text, "test").unwrap().trust)
    }

    #[test]
    fn all_of_ipv6_is_nothing_of_ipv4() {
        let of_ipv4 = senders()
            .prefixes()
            .find(|(prefix, _)| *prefix == ALL_OF_IPV4);
        assert_eq!(of_ipv4, Some((ALL_OF_IPV4, Sender::default())));
    }

    #[test]
    fn the_longest_prefix_decides_what_is_believed_where() {
        use Statement::{Proxy, Toa, Xff};
        let senders = senders();
        let believes = |speaker: &str, statement, port| {
            let speaker = speaker.parse().unwrap();
            senders.rule_for(speaker, statement, port).is_some()
        };
        for (speaker, statement, port, expected) in [
            ("192.0.2.1", Proxy, 443, true),
            ("::ffff:192.0.2.1", Proxy, 8099, true),
            ("2001:db8::1", Proxy, 8000, true),
            ("192.0.2.1", Proxy, 80, false),
            ("192.0.2.1", Toa, 443, false),
            ("192.0.2.8", Proxy, 443, false),
            ("192.0.2.8", Toa, 443, false),
            ("192.0.2.200", Toa, 80, true),
            ("192.0.2.200", Xff, 1, true),
            ("192.0.2.200", Proxy, 443, false),
            ("198.51.100.1", Toa, 80, false),
            ("198.51.100.1", Xff, 80, false),
            ("2001:db8::1", Xff, 80, false),
            ("2001:db9::1", Xff, 80, true),
        ] {
            assert_eq!(
                believes(speaker, statement, port),
                expected,
                "{speaker} {statement:?} {port}"
            );
        }
    }
}
