//! Keys that several sections have: network namespaces, interfaces, ports, addresses, cgroups.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::LazyLock;

use super::problem::Problems;
use super::section::Section;
use super::value::Located;
use crate::host::cgroups::cgroup2_mount;

/// What it means that `ports` is empty.
const CONCERNS_NONE: &str = "no connection is concerned";

/// The names of the sections of one kind, by which records refer to them.
pub(super) struct Names {
    /// What the sections are called together.
    kind: &'static str,
    /// By their numbers in records.
    seen: HashMap<u32, String>,
}

impl Names {
    pub(super) fn of(kind: &'static str) -> Self {
        Self {
            kind,
            seen: HashMap::new(),
        }
    }

    /// Notes a name that another section has, or that has another's number.
    pub(super) fn add(&mut self, id: u32, name: &str, span: Range<usize>, problems: &mut Problems) {
        let Some(earlier) = self.seen.insert(id, name.to_owned()) else {
            return;
        };
        let message = if earlier == name {
            format!("two {} have the name \"{name}\"", self.kind)
        } else {
            format!("the names \"{earlier}\" and \"{name}\" have the same number in the records")
        };
        let hint = format!("write `name = \"{name}-2\"`, for example");
        problems.add(span, message, Some(hint));
    }
}

/// Path of the network namespace; `None` for the agent's own.
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

/// The ports of a section that needs some, as ranges.
pub(super) fn ports(
    section: &Section<'_, '_>,
    problems: &mut Problems,
) -> Vec<Located<RangeInclusive<u16>>> {
    const EXAMPLE: &str = "[\"8080\", \"9000-9010\"]";
    if !section.require("ports", EXAMPLE, problems) {
        return Vec::new();
    }
    let help = format!("write `ports = {EXAMPLE}`, for example");
    section.refuse_empty("ports", CONCERNS_NONE, help, problems);
    port_ranges(section, problems)
}

/// The ports of a section that concerns all unless it names some; empty: all.
pub(super) fn optional_ports(
    section: &Section<'_, '_>,
    problems: &mut Problems,
) -> Vec<RangeInclusive<u16>> {
    section.refuse_empty(
        "ports",
        CONCERNS_NONE,
        "leave it out for all ports",
        problems,
    );
    let ranges = port_ranges(section, problems).into_iter();
    ranges.map(|(range, _)| range).collect()
}

fn port_ranges(
    section: &Section<'_, '_>,
    problems: &mut Problems,
) -> Vec<Located<RangeInclusive<u16>>> {
    let mut ranges: Vec<Located<RangeInclusive<u16>>> = Vec::new();
    for (text, span) in section.strings("ports", problems).unwrap_or_default() {
        match port_range(text) {
            Ok(range) => ranges.push((range, span)),
            Err((reason, help)) => problems.add(span, reason, Some(help)),
        }
    }
    ranges
}

/// Reads `8080` or `9000-9010`. The error is the reason and what to write instead.
pub(super) fn port_range(text: &str) -> Result<RangeInclusive<u16>, (String, String)> {
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

/// A range of ports as the configuration writes it: `8080` or `9000-9010`.
pub fn show_ports(range: &RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

/// An address with a port, which is not 0.
pub(super) fn address(
    key: &str,
    text: &str,
    span: Range<usize>,
    problems: &mut Problems,
) -> Option<SocketAddr> {
    let parsed = text
        .parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0);
    if parsed.is_none() {
        let nearest = nearest_address(text, 443);
        problems.add(
            span,
            format!("`{key}` holds what is not an address with a port: \"{text}\""),
            Some(format!("write \"{nearest}\", for example")),
        );
    }
    parsed
}

/// The address and port that somebody who wrote `text` may have meant.
pub(super) fn nearest_address(text: &str, default_port: u16) -> String {
    let ip = |text: &str| text.trim_matches(['[', ']']).parse();
    if let Ok(ip) = ip(text) {
        return SocketAddr::new(ip, default_port).to_string();
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let ip = ip(host).unwrap_or(Ipv4Addr::LOCALHOST.into());
    SocketAddr::new(ip, port.parse().unwrap_or(default_port)).to_string()
}

/// Where systemd mounts the hierarchy; the first, where it also mounts those of version 1.
const CGROUP_MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// Where it is mounted here, which does not change while a process runs: it is looked for once, and not for every path.
static HERE: LazyLock<Option<String>> =
    LazyLock::new(|| cgroup2_mount().ok()?.into_os_string().into_string().ok());

/// The mount point of the hierarchy, here or on most hosts, that a path begins with, and what comes behind it.
fn below_a_mount(path: &str) -> Option<(String, &str)> {
    let mounts = HERE.as_deref().into_iter().chain(CGROUP_MOUNTS);
    let below = mounts.filter_map(|mount| {
        let rest = path.strip_prefix(mount)?;
        (mount != "/" && (rest.is_empty() || rest.starts_with('/')))
            .then(|| (mount.to_owned(), rest))
    });
    below.min_by_key(|(_, rest)| rest.len())
}

/// Paths of cgroups, from the root of the hierarchy.
pub(super) fn cgroups(
    key: &str,
    section: &Section<'_, '_>,
    problems: &mut Problems,
) -> Vec<String> {
    let paths: Vec<Located<&str>> = section.strings(key, problems).unwrap_or_default();
    for (path, span) in &paths {
        let (message, meant) = if !path.starts_with('/') {
            let message = "is not a path from the root of the hierarchy".to_owned();
            (message, format!("/{path}"))
        } else if let Some((mount, rest)) = below_a_mount(path) {
            let message = format!("begins with {mount}, where the hierarchy is mounted");
            (message, format!("/{}", rest.trim_start_matches('/')))
        } else {
            continue;
        };
        problems.add(
            span.clone(),
            format!("`{key}` holds what {message}: \"{path}\""),
            Some(format!("write \"{meant}\"")),
        );
    }
    let paths = paths.into_iter().map(|(path, _)| match path {
        "/" => path,
        path => path.trim_end_matches('/'),
    });
    paths.map(str::to_owned).collect()
}
