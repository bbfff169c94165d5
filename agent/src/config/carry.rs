//! The sections below `[carry]`: what the next hop is told.

use ipnet::IpNet;

use super::{problem::Problems, reader::Section, trust::check_kind};

pub(super) const KEYS: [&str; 1] = ["toa"];
pub(super) const TOA_KEYS: [&str; 2] = ["to", "kind"];

/// The section `[carry.toa]`: destinations whose SYN tells a local proxy's client in a TCP option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarryToa {
    /// Prefixes of destinations that understand it.
    pub to: Vec<IpNet>,
    /// The option's kind.
    pub kind: u8,
}

impl Default for CarryToa {
    fn default() -> Self {
        Self {
            to: Vec::new(),
            kind: 254,
        }
    }
}

impl CarryToa {
    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Self {
        section.refuse_unknown(problems);
        let kind = section.integer("kind", 0..=255, problems);
        let kind = kind.map_or(Self::default().kind, |(kind, span)| {
            let kind = u8::try_from(kind).expect("checked above");
            check_kind(kind, span, problems);
            kind
        });
        Self {
            to: section.prefixes("to", problems),
            kind,
        }
    }
}
