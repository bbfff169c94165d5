//! The key `local_source`: where the connections of a local proxy to its own host come from.

use std::net::{IpAddr, Ipv6Addr};

use super::super::{problem::Problems, section::Section};

pub(super) const KEY: &str = "local_source";

/// Reads the key: at most one address for each IP version.
pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Vec<IpAddr> {
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
