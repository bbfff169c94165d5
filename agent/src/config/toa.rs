//! The section `[toa]`: the TCP option by which a client is told.

use std::path::PathBuf;

use agent_common::toa::{Kinds, LEN_V4, LEN_V6};

use super::{problem::Problems, section::Section};

pub(super) const KEYS: [&str; 2] = ["kinds", "keys"];

/// The options that common load balancers (LVS, DPVS) write.
const TOA: Kinds = Kinds::NONE
    .with(254, LEN_V4)
    .with(253, LEN_V6)
    .with(254, LEN_V6);
/// Kinds with another meaning (IANA, TCP option kinds): everything up to timestamps, MD5, user timeout,
/// authentication, multipath and fast open.
const ASSIGNED: [u8; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 19, 28, 29, 30, 34];

/// The section `[toa]`: the TCP option by which a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toa {
    /// The TCP options that are read as TOA.
    pub kinds: Kinds,
    /// The file with the keys that sign and verify; without one, nothing is signed.
    pub keys: Option<PathBuf>,
}

impl Default for Toa {
    fn default() -> Self {
        Self {
            kinds: TOA,
            keys: None,
        }
    }
}

impl Toa {
    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Self {
        section.refuse_unknown(problems);
        Self {
            kinds: kinds(section, problems).unwrap_or(TOA),
            keys: section.path("keys", problems).map(|(path, _)| path),
        }
    }
}

/// The key `kinds`: TCP options, each as `kind/length`.
fn kinds(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Kinds> {
    let mut kinds = Kinds::NONE;
    for (text, span) in section.strings("kinds", problems)? {
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
                format!("`kinds` holds what is not a kind and a length: \"{text}\""),
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
