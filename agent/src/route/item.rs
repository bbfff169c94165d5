//! The parts of mark-and-route.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    slice,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    rule::{self, Rule},
    sysctl, table,
};
use crate::{
    config::{Interfaces, Steer},
    host::netns::{Links, Netns},
};

/// Something to install in one network namespace. The namespace without a path is the agent's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A routing rule for marked packets.
    Rule {
        /// Path of the namespace.
        netns: Option<PathBuf>,
        /// Whether it is for IPv6, or else for IPv4.
        ipv6: bool,
        /// The rule.
        #[serde(flatten)]
        rule: MarkRule,
    },
    /// The route `local default dev lo`, by which packets are delivered to this host.
    Route {
        /// Path of the namespace.
        netns: Option<PathBuf>,
        /// Whether it is for IPv6, or else for IPv4.
        ipv6: bool,
        /// The routing table.
        table: u32,
    },
    /// The value of a sysctl.
    Sysctl {
        /// Path of the namespace.
        netns: Option<PathBuf>,
        /// Its key, such as `net.ipv4.tcp_fwmark_accept`.
        key: String,
        /// Its value.
        value: String,
    },
}

/// Packets with this mark that come in by `iif` are routed by `table`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MarkRule {
    /// The mark.
    pub mark: u32,
    /// The bits of the mark that count.
    pub mask: u32,
    /// The routing table.
    pub table: u32,
    /// Name of the interface, which need not exist.
    pub iif: String,
}

impl From<&MarkRule> for Rule {
    fn from(rule: &MarkRule) -> Self {
        Self::ours(rule.mark, rule.mask, &rule.iif, rule.table)
    }
}

/// Those of `items` that are not installed in `netns`, to which all of them belong. Expects no items for IPv6 where the
/// namespace has none.
pub fn missing<'a>(
    netns: &Netns,
    items: impl IntoIterator<Item = &'a Item>,
) -> Result<Vec<&'a Item>> {
    let mut ipv6 = None;
    let mut missing = Vec::new();
    for item in items {
        if item.is_installed(netns)? {
            continue;
        }
        let has_ipv6 = match ipv6 {
            Some(known) => known,
            None => *ipv6.insert(sysctl::ipv6_enabled(netns)?),
        };
        if has_ipv6 || !item.is_ipv6() {
            missing.push(item);
        }
    }
    Ok(missing)
}

/// The items that the `steers` of a namespace with these `links` need, in the order in which they must be installed.
pub fn items(steers: &[Steer], links: &Links) -> Vec<Item> {
    let mut items = Vec::new();
    for item in steers.iter().flat_map(|steer| items_of(steer, links)) {
        // Steers of one namespace share their table, and often their interfaces.
        if !items.contains(&item) {
            items.push(item);
        }
    }
    items
}

fn items_of(steer: &Steer, links: &Links) -> Vec<Item> {
    let mut items = Vec::new();
    let netns = || steer.netns.clone();
    let (sysctls, interfaces): (&[_], BTreeSet<_>) = match &steer.answers {
        // The application answers a spoofed client through `lo`. These make its sockets, and resets where it has no
        // socket, carry the mark of the packet that they answer.
        None => (
            &[
                "net.ipv4.tcp_fwmark_accept",
                "net.ipv4.fwmark_reflect",
                "net.ipv6.fwmark_reflect",
            ],
            BTreeSet::from(["lo"]),
        ),
        // The data path marks the packets that come in by these interfaces.
        Some(_) => (
            &[],
            Interfaces::names(Steer::interfaces(slice::from_ref(steer)), links),
        ),
    };
    items.extend(sysctls.iter().map(|key| Item::Sysctl {
        netns: netns(),
        key: (*key).to_owned(),
        value: "1".to_owned(),
    }));
    for ipv6 in [false, true] {
        items.push(Item::Route {
            netns: netns(),
            ipv6,
            table: steer.table,
        });
        items.extend(interfaces.iter().map(|iif| Item::Rule {
            netns: netns(),
            ipv6,
            rule: MarkRule {
                mark: steer.mark.value,
                mask: steer.mark.mask,
                table: steer.table,
                iif: (*iif).to_owned(),
            },
        }));
    }
    items
}

impl Item {
    /// Path of the item's namespace.
    pub fn netns(&self) -> Option<&Path> {
        let (Self::Rule { netns, .. } | Self::Route { netns, .. } | Self::Sysctl { netns, .. }) =
            self;
        netns.as_deref()
    }

    /// Whether the item is for IPv6.
    pub fn is_ipv6(&self) -> bool {
        match self {
            Self::Rule { ipv6, .. } | Self::Route { ipv6, .. } => *ipv6,
            Self::Sysctl { key, .. } => key.starts_with("net.ipv6."),
        }
    }

    /// Whether the kernel does not tell when somebody changes it.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Sysctl { .. })
    }

    /// What the item's removal must restore: the current value of a sysctl.
    pub(super) fn previous(&self, netns: &Netns) -> Result<Option<String>> {
        match self {
            Self::Sysctl { key, .. } => sysctl::read(netns, key),
            _ => Ok(None),
        }
    }

    /// Whether the item is installed.
    pub(super) fn is_installed(&self, netns: &Netns) -> Result<bool> {
        Ok(match self {
            Self::Rule { ipv6, rule, .. } => rule::rules(netns, *ipv6)?.contains(&rule.into()),
            Self::Route { ipv6, table, .. } => {
                let routes = table::routes(netns, *ipv6, *table)?;
                routes.iter().any(table::Route::is_ours)
            }
            Self::Sysctl { key, value, .. } => sysctl::read(netns, key)?.as_ref() == Some(value),
        })
    }

    /// Installs the item, unless it is installed already.
    pub(super) fn install(&self, netns: &Netns) -> Result<()> {
        match self {
            Self::Rule { ipv6, rule, .. } => Rule::from(rule).install(netns, *ipv6),
            Self::Route { ipv6, table, .. } => table::install(netns, *ipv6, *table),
            Self::Sysctl { key, value, .. } => sysctl::write(netns, key, value),
        }
        .with_context(|| format!("cannot install the {self}"))
    }

    /// Removes the item. It counts as removed if it is no longer there, or if somebody has set the sysctl to another
    /// value meanwhile.
    pub(super) fn remove(&self, netns: &Netns, previous: Option<&str>) -> Result<()> {
        match self {
            Self::Rule { ipv6, rule, .. } => Rule::from(rule).remove(netns, *ipv6),
            // One that was recorded and never installed, for lack of a privilege, needs none to be gone.
            Self::Route { .. } if !self.is_installed(netns)? => Ok(()),
            Self::Route { ipv6, table, .. } => table::remove(netns, *ipv6, *table),
            Self::Sysctl { key, value, .. } => match (sysctl::read(netns, key)?, previous) {
                (Some(now), Some(previous)) if now == *value => sysctl::write(netns, key, previous),
                (Some(now), _) => {
                    tracing::warn!("{self} is {now} by now: left as it is");
                    Ok(())
                }
                (None, _) => Ok(()),
            },
        }
        .with_context(|| format!("cannot remove the {self}"))
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.is_ipv6() { "IPv6" } else { "IPv4" };
        match self {
            Self::Rule { rule, .. } => write!(f, "{family} rule `{}`", Rule::from(rule))?,
            Self::Route { table, .. } => {
                write!(f, "{family} route `local default dev lo table {table}`")?;
            }
            Self::Sysctl { key, value, .. } => write!(f, "sysctl {key}={value}")?,
        }
        match self.netns() {
            Some(path) => write!(f, " in {}", path.display()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_common::Mark;

    use super::*;

    fn steer(interface: Option<&str>, answers: Option<Interfaces>) -> Steer {
        Steer {
            name: "inbound".into(),
            netns: Some("/run/netns/pod".into()),
            interface: interface.map(Into::into),
            ports: vec![8080..=8080],
            to: 15006..=15006,
            answers,
            mark: Mark {
                value: 0x539,
                mask: 0xfff,
            },
            table: 133,
        }
    }

    fn shown(steers: &[Steer]) -> Vec<String> {
        let shown = items(steers, &Links::default())
            .into_iter()
            .map(|item| item.to_string());
        shown
            .map(|text| text.replace(" in /run/netns/pod", ""))
            .collect()
    }

    #[test]
    fn a_sidecar_routes_what_its_application_answers() {
        let expected = [
            "sysctl net.ipv4.tcp_fwmark_accept=1",
            "sysctl net.ipv4.fwmark_reflect=1",
            "sysctl net.ipv6.fwmark_reflect=1",
            "IPv4 route `local default dev lo table 133`",
            "IPv4 rule `pref 133 iif lo fwmark 0x539/0xfff lookup 133`",
            "IPv6 route `local default dev lo table 133`",
            "IPv6 rule `pref 133 iif lo fwmark 0x539/0xfff lookup 133`",
        ];
        assert_eq!(shown(&[steer(Some("eth0"), None)]), expected);
        // All steers of a namespace need them once, by tc or by sk_lookup.
        assert_eq!(
            shown(&[steer(Some("eth0"), None), steer(None, None)]),
            expected
        );
    }

    #[test]
    fn a_gateway_routes_both_sides_and_sets_no_sysctl() {
        assert_eq!(
            shown(&[steer(Some("eth0"), Some("eth1".into()))]),
            [
                "IPv4 route `local default dev lo table 133`",
                "IPv4 rule `pref 133 iif eth0 fwmark 0x539/0xfff lookup 133`",
                "IPv4 rule `pref 133 iif eth1 fwmark 0x539/0xfff lookup 133`",
                "IPv6 route `local default dev lo table 133`",
                "IPv6 rule `pref 133 iif eth0 fwmark 0x539/0xfff lookup 133`",
                "IPv6 rule `pref 133 iif eth1 fwmark 0x539/0xfff lookup 133`",
            ]
        );
        assert_eq!(
            shown(&[steer(Some("eth0"), Some(Interfaces::default()))]).len(),
            4
        );
    }

    /// A journal of a former agent must stay readable.
    #[test]
    fn a_rule_is_one_object_in_the_journal() {
        let json =
            r#"{"rule":{"netns":null,"ipv6":true,"mark":1337,"mask":4095,"table":133,"iif":"lo"}}"#;
        let rule: Item = serde_json::from_str(json).unwrap();
        assert_eq!(
            rule.to_string(),
            "IPv6 rule `pref 133 iif lo fwmark 0x539/0xfff lookup 133`"
        );
        assert_eq!(serde_json::to_string(&rule).unwrap(), json);
    }
}
