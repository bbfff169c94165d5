//! One way to say which interfaces are meant.

use std::fmt;

use crate::host::netns::{Interface, Links};

/// What stands for the interfaces of default routes.
pub(super) const DEFAULT_ROUTE: &str = "default-route";
/// What stands for the node's ends of pods' cables.
pub(super) const PODS: &str = "pods";
/// What no pattern matches: a network namespace's connections to itself.
pub(super) const LOOPBACK: &str = "lo";

/// One way to say which. Of those that are not named, only those are meant whose packets the data path can read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// The one with this name.
    Named(String),
    /// Those with names like this, where `*` stands for any text. Never `lo`.
    Like(String),
    /// Those by which default routes go, of either IP version.
    DefaultRoute,
    /// Those whose other end is in another network namespace (veth, netkit), and by which no default route goes: pods' cables.
    /// A node that is a container has such an uplink.
    Pods,
}

impl Selector {
    pub(super) fn parse(text: &str) -> Self {
        match text {
            DEFAULT_ROUTE => Self::DefaultRoute,
            PODS => Self::Pods,
            text if text.contains('*') => Self::Like(text.to_owned()),
            text => Self::Named(text.to_owned()),
        }
    }

    /// Whether it selects this one of the `links`.
    pub(super) fn selects(&self, interface: &Interface, links: &Links) -> bool {
        let is_read = interface.framing.is_some();
        match self {
            Self::Named(name) => interface.name == *name,
            Self::Like(pattern) => is_read && matches(&interface.name, pattern),
            Self::DefaultRoute => is_read && links.default_routes.contains(&interface.index),
            Self::Pods => {
                let is_uplink = links.default_routes.contains(&interface.index);
                is_read && interface.is_cable && !is_uplink
            }
        }
    }

    /// Whether it certainly selects what `other` does, or some of it.
    pub(super) fn shares_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named(name), Self::Like(pattern)) | (Self::Like(pattern), Self::Named(name)) => {
                matches(name, pattern)
            }
            (Self::Like(a), Self::Like(b)) => matches(a, b) || matches(b, a),
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named(text) | Self::Like(text) => text,
            Self::DefaultRoute => DEFAULT_ROUTE,
            Self::Pods => PODS,
        })
    }
}

/// Whether a name is one of those that a pattern stands for.
fn matches(name: &str, pattern: &str) -> bool {
    if name == LOOPBACK {
        return false;
    }
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<_> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (name, pattern) in [
            ("eth0", "eth0"),
            ("eth0", "e*0"),
            ("eth0", "*"),
            ("eth0", "eth0*"),
            ("a.b.c", "a*b*c"),
            ("abab", "*ab"),
        ] {
            assert!(matches(name, pattern), "{name} is like {pattern}");
        }
        for (name, pattern) in [
            ("eth0", "eth"),
            ("eth0", "*h"),
            ("eth0", "h*"),
            ("ab", "ab*b"),
            ("ac", "a*b*c"),
        ] {
            assert!(!matches(name, pattern), "{name} is not like {pattern}");
        }
    }
}
