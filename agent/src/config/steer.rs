//! One `[[steer]]` section.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use agent_common::{Mark, affinity::MAX_LISTENERS};

use super::problem::Problems;
use super::reader::Section;

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

/// Istio's mark, in the low bits that Kubernetes and the network plugins leave alone.
pub(super) const MARK: Mark = Mark {
    value: 0x539,
    mask: 0xfff,
};
pub(super) const TABLE: u32 = 133;
/// The kernel's own routing tables: unspecified, default, main, local (rtnetlink(7)).
const KERNEL_TABLES: [u32; 4] = [0, 253, 254, 255];
/// `IFNAMSIZ` without its final zero.
const INTERFACE_MAX: usize = 15;

/// Connections that are steered to a local proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    /// What output calls it; unique.
    pub name: String,
    /// Path of the network namespace; `None`: the agent's own.
    pub netns: Option<PathBuf>,
    /// The interface whose ingress is steered; `None`: the whole namespace.
    pub interface: Option<String>,
    /// Destination ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Port of the proxy's listener, or of its listeners: a client's connections go to the same.
    pub to: RangeInclusive<u16>,
    /// `Some`: a gateway, whose proxy's spoofed connections are answered through these interfaces.
    pub answers: Option<Vec<String>>,
    /// The mark of the proxy's spoofed sockets and of a gateway's packets.
    pub mark: Mark,
    /// The routing table that delivers marked packets here.
    pub table: u32,
}

impl Steer {
    /// The interfaces that these steers attach to, each once.
    pub fn interfaces(steers: &[Self]) -> BTreeSet<&str> {
        steers
            .iter()
            .flat_map(|s| s.interface.iter().chain(s.answers.iter().flatten()))
            .map(String::as_str)
            .collect()
    }
}

/// A steer with the places in the text that later problems point to.
pub(super) struct Located {
    pub(super) steer: Steer,
    /// Of the header.
    pub(super) span: Range<usize>,
    /// Of `name`.
    pub(super) name: Range<usize>,
    /// Of each entry of `ports`.
    pub(super) ports: Vec<Range<usize>>,
    /// Of `mark`, or of the header where the default applies.
    pub(super) mark: Range<usize>,
    /// Of `table`, or of the header where the default applies.
    pub(super) table: Range<usize>,
}

impl Located {
    /// Reads a section; `None` when what is missing would make later checks meaningless.
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
        let is_proxys =
            |ports: &RangeInclusive<u16>| to.contains(ports.start()) && to.contains(ports.end());
        if !ports.is_empty() && ports.iter().all(is_proxys) {
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

fn name(section: &Section<'_, '_>, problems: &mut Problems) -> Option<(String, Range<usize>)> {
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

pub(super) fn netns(section: &Section<'_, '_>, problems: &mut Problems) -> Option<PathBuf> {
    let (text, span) = section.string("netns", problems)?;
    if !text.starts_with('/') {
        problems.add(
            span,
            format!("`netns` is not an absolute path: \"{text}\""),
            Some(format!("write \"/run/netns/{text}\"")),
        );
    }
    Some(text.into())
}

fn interface(section: &Section<'_, '_>, problems: &mut Problems) -> Option<String> {
    let (name, span) = section.string("interface", problems)?;
    if name == "lo" {
        problems.add(
            span.clone(),
            "`lo` carries the proxy's own connections to the application, which would be steered back to the proxy",
            Some("leave `interface` out to steer the whole namespace, or name the interface that clients come in by".into()),
        );
    }
    check_interface("interface", name, span, problems);
    Some(name.to_owned())
}

/// The interface of a section that needs one.
pub(super) fn required_interface(
    section: &Section<'_, '_>,
    problems: &mut Problems,
) -> Option<String> {
    section.require("interface", "\"eth0\"", problems);
    let (name, span) = section.string("interface", problems)?;
    check_interface("interface", name, span, problems);
    Some(name.to_owned())
}

fn check_interface(key: &str, name: &str, span: Range<usize>, problems: &mut Problems) {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty()
        || name.len() > INTERFACE_MAX
        || name.contains(forbidden)
        || [".", ".."].contains(&name)
    {
        problems.add(
            span,
            format!("`{key}` holds what cannot be an interface's name: \"{name}\""),
            Some(format!(
                "1 to {INTERFACE_MAX} bytes without spaces, `/` or `:`; `ip -br link` lists the interfaces"
            )),
        );
    }
}

/// `15006` or `"15006-15009"`.
fn to(
    section: &Section<'_, '_>,
    problems: &mut Problems,
) -> Option<(RangeInclusive<u16>, Range<usize>)> {
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

fn answers(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Vec<String>> {
    let answers = section.strings("answers", problems)?;
    for (i, (name, span)) in answers.iter().enumerate() {
        check_interface("answers", name, span.clone(), problems);
        if answers[..i].iter().any(|(earlier, _)| earlier == name) {
            problems.add(
                span.clone(),
                format!("`answers` names {name} twice"),
                Some("name it once".into()),
            );
        }
    }
    if section.get("interface").is_none() {
        problems.add(
            section.span.clone(),
            "`answers` makes this steer a gateway, and a gateway needs `interface`",
            Some(
                "add the interface that clients come in by, such as `interface = \"eth0\"`".into(),
            ),
        );
    }
    Some(
        answers
            .into_iter()
            .map(|(name, _)| name.to_owned())
            .collect(),
    )
}

pub(super) fn ports(
    section: &Section<'_, '_>,
    problems: &mut Problems,
) -> Vec<(RangeInclusive<u16>, Range<usize>)> {
    const EXAMPLE: &str = "[\"8080\", \"9000-9010\"]";
    if !section.require("ports", EXAMPLE, problems) {
        return Vec::new();
    }
    let Some(texts) = section.strings("ports", problems) else {
        return Vec::new();
    };
    if let Some(value) = section.get("ports")
        && value
            .get_ref()
            .as_array()
            .is_some_and(|list| list.is_empty())
    {
        problems.add(
            value.span(),
            "`ports` is empty: no connection is concerned",
            Some(format!("write `ports = {EXAMPLE}`, for example")),
        );
    }
    let mut ranges: Vec<(RangeInclusive<u16>, Range<usize>)> = Vec::new();
    for (text, span) in texts {
        match port_range(text) {
            Ok(range) => ranges.push((range, span)),
            Err((reason, help)) => problems.add(span, reason, Some(help)),
        }
    }
    ranges
}

/// Reads `8080` or `9000-9010`; otherwise the reason and what to write instead.
fn port_range(text: &str) -> Result<RangeInclusive<u16>, (String, String)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) else {
        return Err((
            format!("\"{text}\" is neither a port nor a range of ports"),
            "write \"8080\" or \"9000-9010\", for example".into(),
        ));
    };
    let (low, high) = (first.min(last), first.max(last));
    let (near_low, near_high) = (low.clamp(1, 65_535), high.clamp(1, 65_535));
    let nearest = if near_low == near_high {
        format!("write \"{near_low}\"")
    } else {
        format!("write \"{near_low}-{near_high}\"")
    };
    if low == 0 {
        return Err(("port 0 does not exist".into(), nearest));
    }
    if high > 65_535 {
        return Err((format!("port {high} is above 65535"), nearest));
    }
    if first > last {
        return Err((format!("the range \"{text}\" is upside down"), nearest));
    }
    let port = |n| u16::try_from(n).expect("checked above");
    Ok(port(first)..=port(last))
}

fn mark(section: &Section<'_, '_>, problems: &mut Problems) -> (Mark, Range<usize>) {
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

fn table(section: &Section<'_, '_>, problems: &mut Problems) -> (u32, Range<usize>) {
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
