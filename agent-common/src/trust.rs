//! Who is believed, and about what: the rules `[[trust]]` as the data path and the relay apply them.
//!
//! A statement is judged by its true speaker: the client that is known without it. Behind a node's NAT that is the client
//! whom TOA or the node itself names, and not the sender of the packet.

/// How many prefixes all rules can have together. Maps have room for twice as many, as new ones come before old ones go.
pub const MAX_SENDERS: u32 = 1 << 16;
/// How many users and cgroups all rules can have together.
pub const MAX_PROXIES: u32 = 1 << 10;

/// What somebody who sends packets can say about clients.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// A TCP option on the SYN.
    Toa = 0,
    /// A PROXY header.
    Proxy = 1,
    /// `X-Forwarded-For`.
    Xff = 2,
}

impl Statement {
    /// Every statement, in the order of the numbers.
    pub const ALL: [Self; 3] = [Self::Toa, Self::Proxy, Self::Xff];

    /// The word for it in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Toa => "toa",
            Self::Proxy => "proxy",
            Self::Xff => "xff",
        }
    }
}

/// What the speakers in a prefix are believed: value of the `TRUSTED_SOURCES` trie. Of several prefixes the longest
/// decides, also where it believes nothing.
///
/// Layout (16 bytes): rules 0..12, conditions 12..16.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// For each [`Statement`], [`crate::origin::rule_id`] of the rule that believes it; 0: none does.
    rules: [u32; 3],
    /// Bit `n`: the statement with the number `n` is believed on some ports only, which the map `TRUSTED_PORTS` has.
    /// [`Self::SIGNED`]: TOA must be signed.
    conditions: u32,
}

impl Sender {
    const SIGNED: u32 = 1 << 8;

    /// Has a rule believe a statement; `limited` to the rule's ports, or on all.
    pub const fn believe(&mut self, statement: Statement, rule: u32, limited: bool) {
        self.rules[statement as usize] = rule;
        if limited {
            self.conditions |= 1 << statement as u32;
        }
    }

    /// Demands that TOA be signed.
    pub const fn demand_signature(&mut self) {
        self.conditions |= Self::SIGNED;
    }

    /// Whether TOA must be signed.
    #[inline(always)]
    pub const fn must_sign(&self) -> bool {
        self.conditions & Self::SIGNED != 0
    }

    /// The rule that believes a statement, if one does, and `has_port` says of it that it concerns the connection's port
    /// where it does not concern all.
    #[inline(always)]
    pub fn rule_for(
        &self,
        statement: Statement,
        has_port: impl FnOnce(u32) -> bool,
    ) -> Option<u32> {
        let rule = self.rules[statement as usize];
        let limited = self.conditions >> statement as u32 & 1 != 0;
        (rule != 0 && (!limited || has_port(rule))).then_some(rule)
    }
}

/// What a trusted process of this host is believed: value of the maps `TRUSTED_UIDS` and `TRUSTED_CGROUPS`.
///
/// Layout (8 bytes): rule 0..4, reach 4, limited 5, expressed 6, padding 7.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalProxy {
    /// [`crate::origin::rule_id`] of the rule that believes it.
    pub rule: u32,
    /// Who believes it: a [`Reach`] as its number.
    pub reach: u8,
    /// 1 if it is believed on some ports only, which the map `TRUSTED_PORTS` has; else 0.
    pub limited: u8,
    /// 1 if a connection is refused whose client the application's socket cannot express; else 0.
    pub expressed: u8,
    /// Always zero.
    pub padding: u8,
}

/// How far what a process says is believed; each number includes those before.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// By applications in the process's own network namespace.
    #[default]
    Namespace = 0,
    /// By all applications of this host.
    Host = 1,
    /// By other hosts, too, which are told by TOA.
    Carry = 2,
}

/// Key of the `LOCAL_SOURCES` map.
///
/// Layout (8 bytes): rule 0..4, family 4..8.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LocalSource {
    /// [`crate::origin::rule_id`] of the rule that trusts the process which connects.
    pub rule: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
}

const _: () = {
    assert!(size_of::<Sender>() == 16 && core::mem::offset_of!(Sender, conditions) == 12);
    assert!(size_of::<LocalProxy>() == 8 && core::mem::offset_of!(LocalProxy, limited) == 5);
    assert!(size_of::<LocalSource>() == 8);
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_believed_but_what_a_rule_says(
            said in prop::collection::vec((0_usize..3, 1_u32.., any::<bool>()), 0..4),
            signed: bool,
            has_port: bool,
        ) {
            let mut sender = Sender::default();
            let mut expected = [None; 3];
            for (number, rule, limited) in said {
                if expected[number].is_none() {
                    sender.believe(Statement::ALL[number], rule, limited);
                    expected[number] = Some((rule, limited));
                }
            }
            if signed {
                sender.demand_signature();
            }
            prop_assert_eq!(sender.must_sign(), signed);
            for (statement, expected) in Statement::ALL.into_iter().zip(expected) {
                let asked = |rule| {
                    assert_eq!(Some(rule), expected.map(|(rule, _)| rule));
                    has_port
                };
                let rule = expected.filter(|(_, limited)| !limited || has_port);
                let rule = rule.map(|(rule, _)| rule);
                prop_assert_eq!(sender.rule_for(statement, asked), rule);
            }
        }
    }
}
