//! What a configuration names of the host: it may not be there yet, or go and come again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result, ensure};

use crate::{
    config::{Config, Interfaces, Proxy, Selector, Speakers, Steer},
    host::{cgroups::cgroup2_mount, netns::Netns},
};

/// Something of the host that a configuration names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// The network namespace at a path.
    Namespace(PathBuf),
    /// An interface of the network namespace at a path; without one, of the agent's own.
    Interface(Option<PathBuf>, String),
    /// Whichever interfaces of such a namespace are meant by this, which names none.
    Interfaces(Option<PathBuf>, Selector),
    /// A cgroup v2 path, from the root of the hierarchy.
    Cgroup(String),
    /// The file with the keys of signed TOA.
    Keys(PathBuf),
}

/// All that a configuration names.
pub fn named(config: &Config) -> BTreeSet<Named> {
    let mut named = BTreeSet::new();
    let mut in_namespace = |netns: Option<&Path>, interfaces: &[&Interfaces]| {
        named.extend(netns.map(|path| Named::Namespace(path.to_owned())));
        let path = || netns.map(Path::to_owned);
        let selectors = interfaces.iter().flat_map(|it| it.selectors());
        named.extend(selectors.filter_map(|selector| match selector {
            Selector::Named(name) => Some(Named::Interface(path(), name.clone())),
            // A node may have no pods.
            Selector::Pods => None,
            other => Some(Named::Interfaces(path(), other.clone())),
        }));
    };
    for steer in &config.steer {
        let interfaces: Vec<_> = Steer::interfaces(std::slice::from_ref(steer)).collect();
        in_namespace(steer.netns.as_deref(), &interfaces);
    }
    for unwrap in &config.unwrap {
        in_namespace(unwrap.netns.as_deref(), &[&unwrap.interface]);
    }
    for node in &config.carry_node {
        in_namespace(node.netns.as_deref(), &[&node.interface]);
    }
    for relay in &config.relay {
        in_namespace(relay.netns.as_deref(), &[]);
    }
    named.extend(cgroups(config).map(|path| Named::Cgroup(path.to_owned())));
    named.extend(config.toa.keys.clone().map(Named::Keys));
    named
}

/// The cgroups that a configuration trusts, and those that it reveals clients to.
pub fn cgroups(config: &Config) -> impl Iterator<Item = &str> {
    cgroups_of_sections(config).map(|(_, path)| path)
}

/// The same, each behind the title of its section.
pub(super) fn cgroups_of_sections(config: &Config) -> impl Iterator<Item = (String, &str)> {
    let trusted = config.trust.iter().flat_map(|rule| {
        let proxies: &[Proxy] = match &rule.speakers {
            Speakers::Proxies { proxies, .. } => proxies,
            Speakers::Sources { .. } => &[],
        };
        let paths = proxies.iter().filter_map(|proxy| match proxy {
            Proxy::Cgroup(path) => Some(path),
            Proxy::Uid(_) => None,
        });
        paths.map(|path| (rule.title(), path.as_str()))
    });
    let revealed = config.reveal.cgroups.iter();
    let revealed = revealed.filter(|_| config.reveal.enabled);
    let revealed = revealed.map(|path| ("[reveal]".to_owned(), path.as_str()));
    trusted.chain(revealed)
}

/// What a configuration names and this host does not have now, each with what is wrong. Of a namespace that is missing, no
/// interface is told.
pub fn missing(config: &Config) -> BTreeMap<Named, Error> {
    let mut missing = BTreeMap::new();
    // Namespaces come before their interfaces.
    for named in named(config) {
        if let Named::Interface(Some(path), _) | Named::Interfaces(Some(path), _) = &named
            && missing.contains_key(&Named::Namespace(path.clone()))
        {
            continue;
        }
        if let Err(error) = named.look() {
            missing.insert(named, error);
        }
    }
    missing
}

impl Named {
    /// Whether it is more often misspelt than late, when it is named for the first time and this host does not have it.
    pub fn may_be_misspelt(&self) -> bool {
        !matches!(self, Self::Interfaces(..))
    }

    /// Fails when this host does not have it.
    pub(super) fn look(&self) -> Result<()> {
        match self {
            Self::Namespace(path) => Netns::open(path).map(drop),
            Self::Interface(path, name) => {
                let netns = Netns::open_or_current(path.as_deref())?;
                netns.interface_index(name).map(drop)
            }
            Self::Interfaces(path, selector) => {
                let netns = Netns::open_or_current(path.as_deref())?;
                let found = Interfaces::from(selector.clone()).of(&netns)?;
                ensure!(
                    !found.is_empty(),
                    "no interface of {netns} is meant by {selector}"
                );
                Ok(())
            }
            Self::Cgroup(path) => {
                let path = cgroup2_mount()?.join(path.trim_start_matches('/'));
                let found = std::fs::metadata(&path);
                found.with_context(|| format!("cannot find the cgroup {}", path.display()))?;
                Ok(())
            }
            Self::Keys(path) => {
                let found = std::fs::metadata(path);
                found.with_context(|| format!("cannot find the keys {}", path.display()))?;
                Ok(())
            }
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(path) => write!(f, "the network namespace {}", path.display()),
            Self::Interface(None, name) => write!(f, "the interface {name}"),
            Self::Interface(Some(path), name) => {
                write!(f, "the interface {name} of {}", path.display())
            }
            Self::Interfaces(None, selector) => {
                write!(f, "an interface that is meant by {selector}")
            }
            Self::Interfaces(Some(path), selector) => {
                let path = path.display();
                write!(f, "an interface of {path} that is meant by {selector}")
            }
            Self::Cgroup(path) => write!(f, "the cgroup {path}"),
            Self::Keys(path) => write!(f, "the keys {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_once_and_what_is_there_is_not() {
        let text = r#"
            [[trust]]
            cgroup = ["/", "/tp-none"]
            says = ["bind"]
            [[trust]]
            source = ["10.0.0.0/8"]
            says = ["proxy"]
            [toa]
            keys = "/run/tp-none/keys"
            [[steer]]
            name = "in"
            interface = "lo0"
            ports = ["80"]
            to = 15006
            answers = ["lo1"]
            [[unwrap]]
            netns = "/run/netns/tp-none"
            interface = "eth0"
            ports = ["8000"]
            [[unwrap]]
            interface = ["lo", "tp-none*", "pods"]
            ports = ["8001"]
        "#;
        let config = Config::parse(text, "test").unwrap();
        let missing = missing(&config);
        let missing: Vec<_> = missing.keys().map(ToString::to_string).collect();
        assert_eq!(
            missing,
            [
                "the network namespace /run/netns/tp-none",
                "the interface lo0",
                "the interface lo1",
                "an interface that is meant by tp-none*",
                "the cgroup /tp-none",
                "the keys /run/tp-none/keys",
            ]
        );
        assert_eq!(named(&config).len(), missing.len() + 3);
    }
}
