//! One `[[relay]]` section.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::carry::CarryToa;
use super::problem::Problems;
use super::reader::{Section, nearest};
use super::steer::{MARK, Steer, TABLE, netns};
use super::trust::Trust;

pub(super) const KEYS: [&str; 12] = [
    "netns",
    "listen",
    "accept",
    "upstream",
    "balance",
    "send",
    "protocol",
    "trusted_hops",
    "add_headers",
    "header_timeout",
    "idle_timeout",
    "max_connections",
];

/// A TCP relay of the agent's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Path of the network namespace; `None`: the agent's own.
    pub netns: Option<PathBuf>,
    /// Where clients connect to.
    pub listen: SocketAddr,
    /// How connections begin.
    pub accept: Accept,
    /// Where connections are sent on to: at least one.
    pub upstream: Vec<SocketAddr>,
    /// How one is chosen.
    pub balance: Balance,
    /// How it is told the client.
    pub send: Send,
    /// What it makes of the bytes.
    pub protocol: Protocol,
    /// How long a PROXY header may take, and the head of a request.
    pub header_timeout: Duration,
    /// How long a connection may be silent in both directions.
    pub idle_timeout: Duration,
    /// How many connections may be open at a time.
    pub max_connections: u32,
}

/// How connections to a relay begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// With a PROXY header of a trusted source.
    Proxy,
    /// With payload: the client is whoever connects.
    Plain,
}

/// How a relay chooses an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The same for the same client's address.
    ClientIp,
    /// Each in turn.
    RoundRobin,
}

/// What a relay makes of the bytes that it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing.
    Tcp,
    /// Requests, each with a client of its own.
    Http(Http),
}

/// How a relay learns and tells the client of an HTTP request, besides `X-Forwarded-For`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// How many proxies in front are trusted; `None`: those of `[trust] sources`.
    pub trusted_hops: Option<u32>,
    /// Whether requests get `X-Envoy-External-Address`.
    pub external_address: bool,
    /// Whether requests get `Forwarded`.
    pub forwarded: bool,
}

/// How a relay tells the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    /// An application on this host learns it by `accept()`.
    Reveal,
    /// Packets carry the client's address as their source.
    Transparent,
    /// By a PROXY header of version 1.
    ProxyV1,
    /// By a PROXY header of version 2.
    ProxyV2,
    /// By a TCP option on the SYN.
    Toa,
    /// Not at all.
    Plain,
}

impl Relay {
    /// What output calls it; unique but for relays of other namespaces.
    pub fn name(&self) -> String {
        format!("relay {}", self.listen)
    }

    /// Mark-and-route for the upstream's answers to spoofed clients: that of a sidecar's proxy.
    pub fn route(&self) -> Option<Steer> {
        (self.send == Send::Transparent).then(|| Steer {
            name: self.name(),
            netns: self.netns.clone(),
            interface: None,
            ports: Vec::new(),
            to: self.listen.port()..=self.listen.port(),
            answers: None,
            mark: MARK,
            table: TABLE,
        })
    }
}

/// A relay with the places in the text that later problems point to.
pub(super) struct Located {
    pub(super) relay: Relay,
    listen: Range<usize>,
    accept: Range<usize>,
    send: Range<usize>,
    upstream: Vec<Range<usize>>,
}

impl Located {
    /// Reads a section; `None` when what is missing would make later checks meaningless.
    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Self> {
        section.refuse_unknown(problems);
        let netns = netns(section, problems);
        section.require("listen", "\"0.0.0.0:443\"", problems);
        let listen = section.string("listen", problems).and_then(|(text, span)| {
            Some((address("listen", text, span.clone(), problems)?, span))
        });
        section.require("upstream", "[\"127.0.0.1:8443\"]", problems);
        let upstreams = upstreams(section, problems);
        let accept = word(
            section,
            "accept",
            &[("plain", Accept::Plain), ("proxy", Accept::Proxy)],
            problems,
        );
        let balance = word(
            section,
            "balance",
            &[
                ("round-robin", Balance::RoundRobin),
                ("client-ip", Balance::ClientIp),
            ],
            problems,
        );
        let send = word(
            section,
            "send",
            &[
                ("reveal", Send::Reveal),
                ("transparent", Send::Transparent),
                ("proxy-v1", Send::ProxyV1),
                ("proxy-v2", Send::ProxyV2),
                ("toa", Send::Toa),
                ("plain", Send::Plain),
            ],
            problems,
        );
        let protocol = protocol(section, problems);
        let seconds = |key, default, problems: &mut _| {
            let seconds = section.integer(key, 1..=86_400, problems);
            Duration::from_secs(seconds.map_or(default, |(n, _)| n.into()))
        };
        // "At least 3 seconds to cover a TCP retransmit" (the PROXY protocol's specification, 2).
        let header_timeout = seconds("header_timeout", 5, problems);
        let idle_timeout = seconds("idle_timeout", 3600, problems);
        let max_connections = section.integer("max_connections", 1..=1 << 20, problems);

        let (listen, listen_span) = listen?;
        let (upstream, upstream_spans) = upstreams.into_iter().unzip();
        Some(Self {
            listen: listen_span,
            accept: accept.1,
            send: send.1,
            upstream: upstream_spans,
            relay: Relay {
                netns,
                listen,
                accept: accept.0,
                upstream,
                balance: balance.0,
                send: send.0,
                protocol,
                header_timeout,
                idle_timeout,
                max_connections: max_connections.map_or(1 << 16, |(n, _)| n),
            },
        })
    }
}

/// Checks what concerns several relays, or other sections.
pub(super) fn check(relays: &[Located], trust: &Trust, toa: &CarryToa, problems: &mut Problems) {
    for (i, located) in relays.iter().enumerate() {
        let relay = &located.relay;
        let is_same = |other: &&Located| {
            (&other.relay.netns, other.relay.listen) == (&relay.netns, relay.listen)
        };
        if relays[..i].iter().any(|other| is_same(&other)) {
            problems.add(
                located.listen.clone(),
                format!("two relays listen on {}", relay.listen),
                Some("join them, or give one another address or port".into()),
            );
        }
        if relay.accept == Accept::Proxy && trust.sources.is_empty() {
            problems.add(
                located.accept.clone(),
                "nobody is trusted to send a PROXY header: every connection would be refused",
                Some(
                    "add the senders' prefixes to `[trust]`, such as `sources = [\"10.0.0.0/8\"]`"
                        .into(),
                ),
            );
        }
        for (upstream, span) in relay.upstream.iter().zip(&located.upstream) {
            if *upstream == relay.listen {
                problems.add(
                    span.clone(),
                    "the relay would connect to itself",
                    Some(
                        "`listen` is what clients connect to, `upstream` is where the servers are"
                            .into(),
                    ),
                );
            }
            let knows_toa = toa.to.iter().any(|prefix| prefix.contains(&upstream.ip()));
            if relay.send == Send::Toa && !knows_toa {
                problems.add(
                    located.send.clone(),
                    format!("TOA is not sent to {}", upstream.ip()),
                    Some(format!(
                        "add it to `[carry.toa]`: `to = [\"{}\"]`",
                        ipnet::IpNet::from(upstream.ip())
                    )),
                );
            }
        }
    }
}

/// An address with a port.
fn address(
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
        let nearest = super::nearest_address(text, 443);
        problems.add(
            span,
            format!("`{key}` holds what is not an address with a port: \"{text}\""),
            Some(format!("write \"{nearest}\", for example")),
        );
    }
    parsed
}

fn upstreams(
    section: &Section<'_, '_>,
    problems: &mut Problems,
) -> Vec<(SocketAddr, Range<usize>)> {
    let Some(texts) = section.strings("upstream", problems) else {
        return Vec::new();
    };
    if texts.is_empty()
        && let Some(value) = section.get("upstream")
    {
        problems.add(
            value.span(),
            "`upstream` is empty: connections would go nowhere",
            Some("write `upstream = [\"127.0.0.1:8443\"]`, for example".into()),
        );
    }
    let mut upstreams: Vec<(SocketAddr, Range<usize>)> = Vec::new();
    for (text, span) in texts {
        let Some(address) = address("upstream", text, span.clone(), problems) else {
            continue;
        };
        if upstreams.iter().any(|(earlier, _)| *earlier == address) {
            problems.add(
                span,
                format!("`upstream` names {address} twice"),
                Some("name it once".into()),
            );
            continue;
        }
        upstreams.push((address, span));
    }
    upstreams
}

/// One of `words`, the first of which is the default; with its place.
fn word<T: Copy>(
    section: &Section<'_, '_>,
    key: &str,
    words: &[(&'static str, T)],
    problems: &mut Problems,
) -> (T, Range<usize>) {
    let default = (words[0].1, section.span.clone());
    let Some((text, span)) = section.string(key, problems) else {
        return default;
    };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return (*value, span);
    }
    let all: Vec<_> = words
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    let all = all.join(", ");
    let help = match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(word) => format!("did you mean \"{word}\"? There are {all}"),
        None => format!("there are {all}"),
    };
    problems.add(span, format!("`{key}` cannot be \"{text}\""), Some(help));
    default
}

fn protocol(section: &Section<'_, '_>, problems: &mut Problems) -> Protocol {
    let words = [("tcp", false), ("http", true)];
    let (is_http, _) = word(section, "protocol", &words, problems);
    if !is_http {
        for key in ["trusted_hops", "add_headers"] {
            if let Some(value) = section.get(key) {
                problems.add(
                    value.span(),
                    format!("`{key}` is of no use: TCP has no headers"),
                    Some("add `protocol = \"http\"`, or remove the line".into()),
                );
            }
        }
        return Protocol::Tcp;
    }
    let trusted_hops = section.integer("trusted_hops", 0..=100, problems);
    let mut http = Http {
        trusted_hops: trusted_hops.map(|(hops, _)| hops),
        ..Http::default()
    };
    for (text, span) in section
        .strings("add_headers", problems)
        .into_iter()
        .flatten()
    {
        const HEADERS: [&str; 2] = ["X-Envoy-External-Address", "Forwarded"];
        match HEADERS.map(|header| header.eq_ignore_ascii_case(text)) {
            [true, _] => http.external_address = true,
            [_, true] => http.forwarded = true,
            _ => problems.add(
                span,
                format!("`add_headers` cannot add \"{text}\""),
                Some(format!("there are {HEADERS:?}")),
            ),
        }
    }
    Protocol::Http(http)
}
