//! The section `[trust]`: who may speak for a client.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use agent_common::toa::{Kinds, LEN_V4, LEN_V6};
use ipnet::IpNet;

use super::{fields::cgroups, problem::Problems, section::Section};

pub(super) const KEYS: [&str; 7] = [
    "uids",
    "cgroups",
    "sources",
    "signers",
    "keys",
    "toa",
    "local_source",
];

/// The options that common load balancers (LVS, DPVS) write.
const TOA: Kinds = Kinds::NONE
    .with(254, LEN_V4)
    .with(253, LEN_V6)
    .with(254, LEN_V6);
/// Kinds with another meaning (IANA, TCP option kinds): everything up to timestamps, MD5, user timeout,
/// authentication, multipath and fast open.
const ASSIGNED: [u8; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 19, 28, 29, 30, 34];

/// The section `[trust]`: who may speak for a client. Local proxies do so by a bind to the client's address, remote
/// hops by what they send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// User ids of trusted local proxies.
    pub uids: Vec<u32>,
    /// cgroup v2 paths, from the root of the hierarchy; every process in or below one is a trusted local proxy.
    pub cgroups: Vec<String>,
    /// Prefixes of trusted remote hops.
    pub sources: Vec<IpNet>,
    /// Prefixes of remote hops that are trusted if their TOA is signed.
    pub signers: Vec<IpNet>,
    /// The file with the keys that sign and verify; without one, nothing is signed.
    pub keys: Option<PathBuf>,
    /// The TCP options that are read as TOA.
    pub toa: Kinds,
    /// Source addresses of local proxies' connections to their own host, at most one for each IP version. Without
    /// one, the kernel chooses.
    pub local_source: Vec<IpAddr>,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            uids: Vec::new(),
            cgroups: Vec::new(),
            sources: Vec::new(),
            signers: Vec::new(),
            keys: None,
            toa: TOA,
            local_source: Vec::new(),
        }
    }
}

impl Trust {
    /// Whether any local proxy is trusted.
    pub fn has_proxies(&self) -> bool {
        !self.uids.is_empty() || !self.cgroups.is_empty()
    }

    /// Whether anybody's TOA is believed.
    pub fn reads_toa(&self) -> bool {
        !self.sources.is_empty() || !self.signers.is_empty()
    }

    /// The names of all rules, as `trusted_by` of a peer shows them.
    pub fn rules(&self) -> impl Iterator<Item = String> + '_ {
        let uids = self.uids.iter().map(|uid| Self::uid_rule(*uid));
        let cgroups = self.cgroups.iter().map(|path| Self::cgroup_rule(path));
        let sources = self.sources.iter().map(Self::source_rule);
        let signers = self.signers.iter().map(Self::signer_rule);
        uids.chain(cgroups).chain(sources).chain(signers)
    }

    /// Name of the rule that trusts a user.
    pub fn uid_rule(uid: u32) -> String {
        format!("uid {uid}")
    }

    /// Name of the rule that trusts a cgroup.
    pub fn cgroup_rule(path: &str) -> String {
        format!("cgroup {path}")
    }

    /// Name of the rule that trusts a prefix.
    pub fn source_rule(prefix: &IpNet) -> String {
        format!("source {prefix}")
    }

    /// Name of the rule that trusts a prefix whose TOA is signed.
    pub fn signer_rule(prefix: &IpNet) -> String {
        format!("signer {prefix}")
    }

    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Self {
        section.refuse_unknown(problems);
        let signers = section.prefixes("signers", problems);
        if !signers.is_empty() {
            section.require("keys", "\"/etc/truepeer/keys\"", problems);
        }
        let uids = section.integers("uids", 0..=u32::MAX - 1, problems);
        Self {
            uids: uids.into_iter().flatten().map(|(uid, _)| uid).collect(),
            cgroups: cgroups(section, problems),
            sources: section.prefixes("sources", problems),
            signers,
            keys: section.path("keys", problems).map(|(path, _)| path),
            toa: kinds(section, problems).unwrap_or(TOA),
            local_source: local_source(section, problems),
        }
    }
}

/// The key `toa`: TCP options, each as `kind/length`.
fn kinds(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Kinds> {
    let mut kinds = Kinds::NONE;
    for (text, span) in section.strings("toa", problems)? {
        let parsed = text.split_once('/').and_then(|(kind, length)| {
            let length = length.parse().ok()?;
            [LEN_V4, LEN_V6].contains(&length).then_some(())?;
            Some((kind.parse().ok()?, length))
        });
        match parsed {
            Some((kind, length)) => {
                check_kind(kind, span, problems);
                kinds = kinds.with(kind, length);
            }
            None => problems.add(
                span,
                format!("`toa` holds what is not a kind and a length: \"{text}\""),
                Some("write \"254/8\" for an IPv4 address, \"254/20\" for an IPv6 address".into()),
            ),
        }
    }
    Some(kinds)
}

/// Notes a kind of TCP option that cannot be TOA.
pub(super) fn check_kind(kind: u8, span: std::ops::Range<usize>, problems: &mut Problems) {
    if ASSIGNED.contains(&kind) {
        problems.add(
            span,
            format!("TCP option {kind} has another meaning and cannot be TOA"),
            Some("write 253 or 254, the kinds for experiments".into()),
        );
    }
}

/// The key `local_source`.
fn local_source(section: &Section<'_, '_>, problems: &mut Problems) -> Vec<IpAddr> {
    const KEY: &str = "local_source";
    let mut sources: Vec<IpAddr> = Vec::new();
    for (text, span) in section.strings(KEY, problems).unwrap_or_default() {
        let (message, example) = match text.parse() {
            Ok(IpAddr::V4(address)) if !address.is_loopback() => (
                format!("`{KEY}` holds an address outside of 127.0.0.0/8: \"{text}\""),
                "127.0.0.6",
            ),
            Ok(IpAddr::V6(address)) if !is_unicast(address) => (
                format!("`{KEY}` holds what no interface can have: \"{text}\""),
                "::6",
            ),
            Ok(address) => {
                let is_second = sources.iter().any(|s| s.is_ipv4() == address.is_ipv4());
                sources.push(address);
                if is_second {
                    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                    problems.add(
                        span,
                        format!("`{KEY}` holds a second {family} address: \"{text}\""),
                        Some("leave one of the two".into()),
                    );
                }
                continue;
            }
            Err(_) => (
                format!("`{KEY}` holds what is not an address: \"{text}\""),
                if text.contains(':') {
                    "::6"
                } else {
                    "127.0.0.6"
                },
            ),
        };
        problems.add(
            span,
            message,
            Some(format!("write \"{example}\", for example")),
        );
    }
    sources
}

/// Whether an interface can have this address, written in its own form.
fn is_unicast(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address.to_ipv4_mapped().is_none()
}
