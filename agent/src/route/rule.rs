//! Policy routing rules.

use std::fmt;

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use netlink_packet_route::{
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use rtnetlink::IpVersion;

use super::netlink::{PROTOCOL, delete_all, dumped, explain, family, ip_option};
use crate::host::netns::Netns;

/// Preference of truepeer's rules: after the kernel's `local` table, before nearly everything else.
pub const PREFERENCE: u32 = 133;

/// A rule of the kernel, as far as it concerns truepeer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place among the rules: the lowest comes first.
    pub preference: u32,
    /// The mark that packets need, under `mask`.
    pub mark: u32,
    /// The bits of the mark that count; 0 if packets need no mark.
    pub mask: u32,
    /// The interface by which packets must come in.
    pub iif: Option<String>,
    /// The routing table to use.
    pub table: u32,
    /// The tag of who installed it (`rtm_protocol`).
    pub protocol: u8,
}

impl Rule {
    /// Whether truepeer installed it.
    pub fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL && self.preference == PREFERENCE
    }

    /// A rule that sends marked packets from `iif` to `table`, as truepeer installs it.
    pub(super) fn ours(mark: u32, mask: u32, iif: &str, table: u32) -> Self {
        Self {
            preference: PREFERENCE,
            mark,
            mask,
            iif: Some(iif.to_owned()),
            table,
            protocol: PROTOCOL,
        }
    }

    /// Installs the rule, unless it is there already. Refuses if somebody else has installed the same.
    pub(super) fn install(&self, netns: &Netns, ipv6: bool) -> Result<()> {
        let present = rules(netns, ipv6)?;
        if present.contains(self) {
            return Ok(());
        }
        // The kernel would take both, as they differ in their tag.
        let same = |rule: &&Self| {
            Self {
                protocol: PROTOCOL,
                ..(*rule).clone()
            } == *self
        };
        if let Some(foreign) = present.iter().find(same) {
            bail!(
                "somebody else has installed the same rule (proto {}): find out who, and remove it \
                 with `ip {}rule del {foreign}`",
                RouteProtocol::from(foreign.protocol),
                ip_option(ipv6)
            );
        }
        netns.netlink(async |handle| {
            let mut request = handle.rule().add();
            *request.message_mut() = self.message(ipv6);
            request.execute().await.map_err(explain)
        })
    }

    /// Removes the rule, if it is there. Leaves rules of others alone.
    pub(super) fn remove(&self, netns: &Netns, ipv6: bool) -> Result<()> {
        remove_if(netns, ipv6, |rule| rule == self).map(drop)
    }

    fn message(&self, ipv6: bool) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family(ipv6);
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(self.preference),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(self.mask),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(RouteProtocol::Other(self.protocol)),
        ];
        message
            .attributes
            .extend(self.iif.clone().map(RuleAttribute::Iifname));
        message
    }

    fn from_message(message: &RuleMessage) -> Self {
        let mut rule = Self {
            preference: 0,
            mark: 0,
            mask: 0,
            iif: None,
            table: message.header.table.into(),
            protocol: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(n) => rule.preference = *n,
                RuleAttribute::FwMark(n) => rule.mark = *n,
                RuleAttribute::FwMask(n) => rule.mask = *n,
                RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
                RuleAttribute::Table(n) => rule.table = *n,
                RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
                _ => {}
            }
        }
        rule
    }
}

/// The rule as ip(8) takes and prints it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pref {}", self.preference)?;
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        if self.mask != 0 {
            write!(f, " fwmark {:#x}/{:#x}", self.mark, self.mask)?;
        }
        write!(f, " lookup {}", self.table)
    }
}

/// Every rule for IPv6, or else for IPv4.
pub fn rules(netns: &Netns, ipv6: bool) -> Result<Vec<Rule>> {
    netns.netlink(async |handle| {
        Ok(dump(&handle, ipv6)
            .await?
            .iter()
            .map(Rule::from_message)
            .collect())
    })
}

/// Removes every rule with truepeer's tag, and returns their number.
pub(super) fn sweep(netns: &Netns, ipv6: bool) -> Result<usize> {
    remove_if(netns, ipv6, Rule::is_ours)
}

/// Removes the rules that `doomed` picks, and returns their number.
fn remove_if(netns: &Netns, ipv6: bool, doomed: impl Fn(&Rule) -> bool + Sync) -> Result<usize> {
    netns.netlink(async |handle| {
        let rules = dump(&handle, ipv6).await?.into_iter();
        let rules = rules.filter(|message| doomed(&Rule::from_message(message)));
        delete_all(rules, async |rule| handle.rule().del(rule).execute().await).await
    })
}

async fn dump(handle: &rtnetlink::Handle, ipv6: bool) -> Result<Vec<RuleMessage>> {
    let version = if ipv6 { IpVersion::V6 } else { IpVersion::V4 };
    let rules = handle.rule().get(version).execute().try_collect().await;
    dumped(rules)
        .map_err(explain)
        .context("cannot list the routing rules")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_written_as_ip_takes_it() {
        let rule = Rule::ours(0x539, 0xfff, "lo", 133);
        assert_eq!(
            rule.to_string(),
            "pref 133 iif lo fwmark 0x539/0xfff lookup 133"
        );
        assert_eq!(Rule::from_message(&rule.message(true)), rule);
    }
}
