//! Ports that two sections want, or that no packet has.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::doubt::{Doubt, show};
use crate::config::{interfaces::Interfaces, place::Place, whole::Config};

pub(super) fn all(config: &Config) -> Vec<Doubt> {
    let unwraps = config
        .unwrap
        .iter()
        .enumerate()
        .map(|(number, unwrap)| Section {
            title: unwrap.title(),
            place: Place::nth("unwrap", number),
            on: (&unwrap.netns, &unwrap.interface),
            ports: &unwrap.ports,
        });
    let nodes = config
        .carry_node
        .iter()
        .enumerate()
        .map(|(number, node)| Section {
            title: format!("[[carry.node]] on {}", node.interface),
            place: Place::nth("carry.node", number),
            on: (&node.netns, &node.interface),
            ports: &node.ports,
        });
    let mut doubts = shared(
        &unwraps.collect::<Vec<_>>(),
        "the later section decides about `versions`",
    );
    doubts.extend(shared(
        &nodes.collect::<Vec<_>>(),
        "the later section changes nothing",
    ));
    doubts.extend(behind_a_steer(config));
    doubts
}

/// A section that concerns ports of an interface.
struct Section<'a> {
    title: String,
    place: Place,
    /// Network namespace and interfaces.
    on: (&'a Option<PathBuf>, &'a Interfaces),
    ports: &'a [RangeInclusive<u16>],
}

/// Ports of one interface that two sections have, or one twice.
fn shared(sections: &[Section<'_>], consequence: &str) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    for (at, section) in sections.iter().enumerate() {
        let earlier = sections[..at]
            .iter()
            .filter(|other| other.on.0 == section.on.0 && other.on.1.share(section.on.1));
        let earlier: Vec<_> = earlier.flat_map(|other| other.ports).collect();
        for (item, range) in section.ports.iter().enumerate() {
            let before = earlier.iter().copied().chain(&section.ports[..item]);
            let is_taken = |port: &u16| before.clone().any(|range| range.contains(port));
            let taken: Vec<u16> = range.clone().filter(is_taken).collect();
            if !taken.is_empty() {
                doubts.push(Doubt::new(
                    &section.title,
                    section.place.item("ports", item),
                    format!("{} of an interface is named twice", show(&taken)),
                    consequence,
                    "take it out of one of the two",
                ));
            }
        }
    }
    doubts
}

/// Unwraps of the port on which the proxy of a steer listens. Steered packets keep the port that the client chose.
fn behind_a_steer(config: &Config) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    for (number, unwrap) in config.unwrap.iter().enumerate() {
        for steer in config
            .steer
            .iter()
            .filter(|steer| steer.netns == unwrap.netns)
        {
            let has = |ranges: &[RangeInclusive<u16>], port: &u16| {
                ranges.iter().any(|range| range.contains(port))
            };
            let proxys: Vec<u16> = steer
                .to
                .clone()
                .filter(|port| has(&unwrap.ports, port))
                .collect();
            let chosen = steer.ports.iter().cloned().flatten();
            if proxys.is_empty() || chosen.clone().any(|port| has(&unwrap.ports, &port)) {
                continue;
            }
            doubts.push(Doubt::new(
                unwrap.title(),
                Place::nth("unwrap", number).key("ports"),
                format!(
                    "steer \"{}\" brings connections to {}",
                    steer.name,
                    show(&proxys)
                ),
                "they keep the port that clients connect to, and their PROXY headers are left on",
                format!(
                    "write the steer's own `ports` in the [[unwrap]]: {}",
                    show(&chosen.collect::<Vec<_>>())
                ),
            ));
        }
    }
    doubts
}
