//! Rules of which others leave little: of several prefixes that a sender is in, the longest decides.

use std::collections::HashMap;

use agent_common::trust::Statement;
use ipnet::IpNet;

use super::doubt::Doubt;
use crate::config::{
    place::Place,
    trust::{Speakers, Trust},
};

/// A prefix of a rule, and where it is written.
struct Source {
    prefix: IpNet,
    rule: usize,
    item: usize,
}

pub(super) fn all(trust: &[Trust]) -> Vec<Doubt> {
    let mut sources = Vec::new();
    let mut said: HashMap<IpNet, Vec<Statement>> = HashMap::new();
    for (rule, section) in trust.iter().enumerate() {
        if let Speakers::Sources { prefixes, says, .. } = &section.speakers {
            for (item, prefix) in prefixes.iter().copied().enumerate() {
                sources.push(Source { prefix, rule, item });
                said.entry(prefix).or_default().extend(says);
            }
        }
    }
    // What lies within a prefix follows it.
    let mut sorted: Vec<_> = said.keys().copied().collect();
    sorted.sort_unstable_by_key(|prefix| (prefix.network(), prefix.prefix_len()));
    let doubt = |source: &Source| {
        let title = trust[source.rule].title();
        without_anybody(&title, &sorted, source).or_else(|| believed_less(&title, &said, source))
    };
    sources.iter().filter_map(doubt).collect()
}

/// Where a prefix is written.
fn place(source: &Source) -> Place {
    Place::nth("trust", source.rule).item("source", source.item)
}

/// A prefix of which longer ones leave nothing. `sorted` has all prefixes.
fn without_anybody(title: &str, sorted: &[IpNet], source: &Source) -> Option<Doubt> {
    let prefix = source.prefix;
    let at = sorted.partition_point(|other| {
        (other.network(), other.prefix_len()) <= (prefix.network(), prefix.prefix_len())
    });
    let within = sorted[at..]
        .iter()
        .take_while(|other| prefix.contains(*other));
    let within = IpNet::aggregate(&within.copied().collect());
    within.contains(&prefix).then(|| {
        Doubt::new(
            title,
            place(source),
            format!("longer prefixes of other rules leave nothing of {prefix}"),
            "what the rule believes of it is never believed",
            "leave the prefix out, or those that are longer",
        )
    })
}

/// A prefix that is believed less than the one around it, unless nothing at all is believed of it, which is how
/// somebody is left out. `said` has what all rules together believe of each prefix.
fn believed_less(
    title: &str,
    said: &HashMap<IpNet, Vec<Statement>>,
    source: &Source,
) -> Option<Doubt> {
    let inside = &said[&source.prefix];
    let around = std::iter::successors(source.prefix.supernet(), IpNet::supernet);
    let (around, outside) = around
        .into_iter()
        .find_map(|around| said.get_key_value(&around))?;
    let lacks = Statement::ALL
        .into_iter()
        .filter(|statement| outside.contains(statement) && !inside.contains(statement));
    let lacks: Vec<_> = lacks
        .map(|statement| format!("\"{}\"", statement.name()))
        .collect();
    (!inside.is_empty() && !lacks.is_empty()).then(|| {
        let lacks = lacks.join(", ");
        Doubt::new(
            title,
            place(source),
            format!(
                "{} lies within {around}, which is believed to say {lacks}",
                source.prefix
            ),
            "the longest prefix decides alone, so these senders are not",
            format!("add {lacks} to its `says`, if they are to be"),
        )
    })
}
