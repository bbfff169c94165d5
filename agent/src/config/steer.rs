//! The sections `[[steer]]`.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use agent_common::{Mark, affinity::MAX_LISTENERS, steer::MAX_RANGES};
use anyhow::Result;

use super::fields::{netns, port_range, ports};
use super::interfaces::Interfaces;
use super::problem::Problems;
use super::section::Section;
use super::selector::Selector;
use super::value::Located;
use crate::host::netns::{Links, Netns};

pub(super) const KEYS: [&str; 8] = [
    "name",
    "netns",
    "interface",
    "ports",
    "to",
    "answers",
    "mark",
    "table",
];

/// Istio's mark, in low bits that neither Kubernetes nor the network plugins use.
pub(super) const MARK: Mark = Mark {
    value: 0x539,
    mask: 0xfff,
};
pub(super) const TABLE: u32 = 133;
/// The kernel's own routing tables: unspecified, default, main, local (rtnetlink(7)).
const KERNEL_TABLES: [u32; 4] = [0, 253, 254, 255];

/// Connections that are steered to a local proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    /// Its name in output; unique.
    pub name: String,
    /// Path of the network namespace; `None` for the agent's own.
    pub netns: Option<PathBuf>,
    /// The interfaces whose ingress is steered; `None` for the whole namespace.
    pub interface: Option<Interfaces>,
    /// Destination ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Ports of the proxy's listeners. All connections of a client go to the same one.
    pub to: RangeInclusive<u16>,
    /// With `Some`, the steer is a gateway: answers to its proxy's spoofed connections come in by these interfaces.
    pub answers: Option<Interfaces>,
    /// The mark of the proxy's spoofed sockets and of a gateway's packets.
    pub mark: Mark,
    /// The routing table that delivers marked packets to this host.
    pub table: u32,
}

impl Steer {
    /// The links of a network namespace, as far as these steers ask for them.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub fn links(steers: &[Self], netns: &Netns) -> Result<Links> {
        netns.links(Interfaces::need_routes(Self::interfaces(steers)))
    }

    /// The interfaces that these steers attach to.
    pub fn interfaces(steers: &[Self]) -> impl Iterator<Item = &Interfaces> {
        steers
            .iter()
            .flat_map(|s| s.interface.iter().chain(&s.answers))
    }
}

/// A steer, and the places in the text that later checks point to.
pub(super) struct LocatedSteer {
    pub(super) steer: Steer,
    /// Place of the header.
    pub(super) span: Range<usize>,
    /// Place of `name`.
    pub(super) name: Range<usize>,
    /// Place of each entry of `ports`.
    pub(super) ports: Vec<Range<usize>>,
    /// Place of `mark`, or of the header where the default applies.
    pub(super) mark: Range<usize>,
    /// Place of `table`, or of the header where the default applies.
    pub(super) table: Range<usize>,
}

impl LocatedSteer {
    /// Reads a section; `None` if it lacks what later checks need.
    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Self> {
        section.refuse_unknown(problems);
        let name = name(section, problems);
        let netns = netns(section, problems);
        let interface = interface(section, problems);
        let ports = ports(section, problems);
        let to = to(section, problems);
        let answers = answers(section, problems);
        let mark = mark(section, problems);
        let table = table(section, problems);

        let (name, name_span) = name?;
        let (to, to_span) = to?;
        let (ports, port_spans): (Vec<_>, Vec<_>) = ports.into_iter().unzip();
        let is_the_proxys =
            |ports: &RangeInclusive<u16>| to.contains(ports.start()) && to.contains(ports.end());
        if !ports.is_empty() && ports.iter().all(is_the_proxys) {
            problems.add(
                to_span,
                "`ports` has the proxy's own only: nothing would be steered",
                Some("`to` is where the proxy listens, `ports` is what clients connect to".into()),
            );
        }
        Some(Self {
            span: section.span.clone(),
            name: name_span,
            ports: port_spans,
            mark: mark.1,
            table: table.1,
            steer: Steer {
                name,
                netns,
                interface,
                ports,
                to,
                answers,
                mark: mark.0,
                table: table.0,
            },
        })
    }
}

fn name(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Located<String>> {
    if !section.require("name", "\"inbound\"", problems) {
        return None;
    }
    let (name, span) = section.string("name", problems)?;
    if name.trim().is_empty() {
        problems.add(
            span,
            "`name` is empty",
            Some("write \"inbound\", for example".into()),
        );
        return None;
    }
    Some((name.to_owned(), span))
}

fn interface(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Interfaces> {
    let interfaces = Interfaces::some(section, problems)?;
    if interfaces.has_loopback() {
        problems.add(
            section.get("interface")?.span(),
            "`lo` carries the proxy's own connections to the application, which would be steered back to the proxy",
            Some("leave `interface` out to steer the whole namespace, or name the interface that clients come in by".into()),
        );
    }
    refuse_many("interface", &interfaces, section, problems);
    Some(interfaces)
}

/// Notes what may stand for more interfaces than a network namespace has room for ranges.
fn refuse_many(
    key: &str,
    interfaces: &Interfaces,
    section: &Section<'_, '_>,
    problems: &mut Problems,
) {
    let stands_for_many =
        |selector: &&Selector| !matches!(selector, Selector::Named(_) | Selector::DefaultRoute);
    if let Some(many) = interfaces.selectors().iter().find(stands_for_many)
        && let Some(value) = section.get(key)
    {
        problems.add(
            value.span(),
            format!(
                "`{key}` of a [[steer]] holds what may stand for many interfaces: \"{many}\"; there is room for {MAX_RANGES} ranges"
            ),
            Some("name the interfaces, or write \"default-route\"".into()),
        );
    }
}

/// The key `to`: `15006` or `"15006-15009"`.
fn to(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Located<RangeInclusive<u16>>> {
    section.require("to", "15006", problems);
    let text = section.get("to")?.get_ref().as_str();
    let Some(text) = text.filter(|text| text.contains('-')) else {
        let (port, span) = section.integer("to", 1..=65_535, problems)?;
        let port = port as u16;
        return Some((port..=port, span));
    };
    let span = section.get("to")?.span();
    let (reason, help) = match port_range(text) {
        Ok(to) if to.len() <= MAX_LISTENERS as usize => return Some((to, span)),
        Ok(to) => {
            let (first, n) = (to.start(), to.len());
            let last = u32::from(*first) + MAX_LISTENERS - 1;
            (
                format!("`to` has {n} ports, {MAX_LISTENERS} are possible"),
                format!("write \"{first}-{last}\""),
            )
        }
        Err(problem) => problem,
    };
    problems.add(span, reason, Some(help));
    None
}

fn answers(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Interfaces> {
    section.get("answers")?;
    if section.get("interface").is_none() {
        problems.add(
            section.span.clone(),
            "`answers` makes this steer a gateway, and a gateway needs `interface`",
            Some(
                "add the interface that clients come in by, such as `interface = \"eth0\"`".into(),
            ),
        );
    }
    let interfaces = Interfaces::read("answers", section, problems)?;
    refuse_many("answers", &interfaces, section, problems);
    Some(interfaces)
}

fn mark(section: &Section<'_, '_>, problems: &mut Problems) -> Located<Mark> {
    let Some((text, span)) = section.string("mark", problems) else {
        return (MARK, section.span.clone());
    };
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    let (Some(value), Some(mask)) = (number(value), number(mask)) else {
        problems.add(
            span.clone(),
            format!(
                "\"{text}\" is not a mark: VALUE or VALUE/MASK, each of 32 bits, hex or decimal"
            ),
            Some("write \"0x539/0xfff\", for example".into()),
        );
        return (MARK, span);
    };
    if value & !mask != 0 {
        let kept = value & mask;
        let needed = mask | value;
        problems.add(
            span.clone(),
            format!("the mark's value {value:#x} has bits outside its mask {mask:#x}"),
            Some(if kept == 0 {
                format!("write \"{value:#x}/{needed:#x}\"")
            } else {
                format!("write \"{kept:#x}/{mask:#x}\" or \"{value:#x}/{needed:#x}\"")
            }),
        );
    } else if value == 0 {
        problems.add(
            span.clone(),
            "the mark's value is 0, which every unmarked packet has",
            Some(format!("write \"0x539/{:#x}\", for example", mask | 0x539)),
        );
    }
    (Mark { value, mask }, span)
}

fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn table(section: &Section<'_, '_>, problems: &mut Problems) -> Located<u32> {
    let Some((table, span)) = section.integer("table", 0..=u32::MAX, problems) else {
        return (TABLE, section.span.clone());
    };
    if KERNEL_TABLES.contains(&table) {
        problems.add(
            span.clone(),
            format!("routing table {table} is the kernel's own"),
            Some(format!(
                "write `table = {TABLE}`, or any other that nobody uses"
            )),
        );
    }
    (table, span)
}
