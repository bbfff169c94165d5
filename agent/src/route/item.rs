//! What mark-and-route is made of.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{rule::Rule, sysctl, table};
use crate::netns::Netns;

/// One thing to install in one network namespace (`None`: the agent's own).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// Packets with this mark that come in by `iif` are routed by `table`.
    Rule {
        /// Where.
        netns: Option<PathBuf>,
        /// For IPv6, else for IPv4.
        ipv6: bool,
        /// The mark.
        mark: u32,
        /// The bits of it that count.
        mask: u32,
        /// The table.
        table: u32,
        /// Name of the interface, which need not exist.
        iif: String,
    },
    /// `local default dev lo`: what is routed by `table` is delivered here.
    Route {
        /// Where.
        netns: Option<PathBuf>,
        /// For IPv6, else for IPv4.
        ipv6: bool,
        /// The table.
        table: u32,
    },
    /// A sysctl has this value.
    Sysctl {
        /// Where.
        netns: Option<PathBuf>,
        /// `net.ipv4.tcp_fwmark_accept`, say.
        key: String,
        /// Its value.
        value: String,
    },
}

impl Item {
    /// Path of the namespace that it belongs to.
    pub fn netns(&self) -> Option<&Path> {
        let (Self::Rule { netns, .. } | Self::Route { netns, .. } | Self::Sysctl { netns, .. }) =
            self;
        netns.as_deref()
    }

    /// Whether it is about IPv6.
    pub fn is_ipv6(&self) -> bool {
        match self {
            Self::Rule { ipv6, .. } | Self::Route { ipv6, .. } => *ipv6,
            Self::Sysctl { key, .. } => key.starts_with("net.ipv6."),
        }
    }

    /// What must be restored when it is removed: the sysctl's value as it stands.
    pub(super) fn previous(&self, netns: &Netns) -> Result<Option<String>> {
        match self {
            Self::Sysctl { key, .. } => sysctl::read(netns, key),
            _ => Ok(None),
        }
    }

    /// Makes it so, unless it is.
    pub(super) fn install(&self, netns: &Netns) -> Result<()> {
        match self {
            Self::Rule {
                ipv6,
                mark,
                mask,
                table,
                iif,
                ..
            } => Rule::ours(*mark, *mask, iif, *table).install(netns, *ipv6),
            Self::Route { ipv6, table, .. } => table::install(netns, *ipv6, *table),
            Self::Sysctl { key, value, .. } => sysctl::write(netns, key, value),
        }
        .with_context(|| format!("cannot install the {self}"))
    }

    /// Undoes it. What is no longer there counts as undone, and so does a sysctl that somebody has
    /// set to another value meanwhile.
    pub(super) fn remove(&self, netns: &Netns, previous: Option<&str>) -> Result<()> {
        match self {
            Self::Rule {
                ipv6,
                mark,
                mask,
                table,
                iif,
                ..
            } => Rule::ours(*mark, *mask, iif, *table).remove(netns, *ipv6),
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
            Self::Rule {
                mark,
                mask,
                table,
                iif,
                ..
            } => {
                write!(
                    f,
                    "{family} rule `{}`",
                    Rule::ours(*mark, *mask, iif, *table)
                )?;
            }
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
