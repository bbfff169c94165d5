//! The sections `[[relay]]`.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::fields::{address, netns};
use super::problem::Problems;
use super::section::Section;
use super::steer::{MARK, Steer, TABLE};
use super::value::Located;

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
    /// Path of the network namespace; `None` for the agent's own.
    pub netns: Option<PathBuf>,
    /// The address that clients connect to.
    pub listen: SocketAddr,
    /// How connections begin.
    pub accept: Accept,
    /// The upstreams, at least one.
    pub upstream: Vec<SocketAddr>,
    /// How the relay chooses an upstream.
    pub balance: Balance,
    /// How the upstream is told the client.
    pub send: Send,
    /// The protocol that the relay understands.
    pub protocol: Protocol,
    /// How long a PROXY header or the head of a request may take.
    pub header_timeout: Duration,
    /// How long a connection may be silent in both directions; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How many connections may be open at a time.
    pub max_connections: u32,
}

/// How connections to a relay begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// With a PROXY header from a trusted source.
    Proxy,
    /// With payload: whoever connects is the client.
    Plain,
}

/// How a relay chooses an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// By the client's address: always the same for one client.
    ClientIp,
    /// Each in turn.
    RoundRobin,
}

/// The protocol of the bytes that a relay moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Any over TCP: bytes pass as they are.
    Tcp,
    /// HTTP, where each request has a client of its own.
    Http(Http),
}

/// How a relay learns and tells the client of an HTTP request, besides `X-Forwarded-For`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// How many proxies in front are trusted; `None` for those whom `[[trust]]` believes "xff".
    pub trusted_hops: Option<u32>,
    /// Whether requests get `X-Envoy-External-Address`.
    pub external_address: bool,
    /// Whether requests get `Forwarded`.
    pub forwarded: bool,
}

/// How a relay tells its upstream the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    /// By `accept()`, to an application on this host.
    Reveal,
    /// By the source address of its packets.
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
    /// Its name in output; unique in its network namespace.
    pub fn name(&self) -> String {
        format!("relay {}", self.listen)
    }

    /// The ports by which rules concern its connections: its own, and on steered connections the one that the client
    /// connected to.
    pub fn ports<'a>(
        &'a self,
        steers: impl IntoIterator<Item = &'a Steer, IntoIter: 'a>,
    ) -> impl Iterator<Item = u16> + 'a {
        let port = self.listen.port();
        let steers = steers.into_iter();
        let steered = steers
            .filter(move |steer| steer.netns == self.netns && steer.to.contains(&port))
            .flat_map(|steer| steer.ports.iter().cloned().flatten());
        std::iter::once(port).chain(steered)
    }

    /// Whether its connections speak for the clients, to applications and policies of this host or by TOA.
    pub fn speaks(&self) -> bool {
        matches!(self.send, Send::Reveal | Send::Transparent | Send::Toa)
    }

    /// The steer whose mark-and-route brings the upstream's answers to spoofed clients back, as for a sidecar's proxy.
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

/// A relay, and the places in the text that later checks point to.
pub(super) struct LocatedRelay {
    pub(super) relay: Relay,
    pub(super) listen: Range<usize>,
    pub(super) accept: Range<usize>,
    pub(super) send: Range<usize>,
    pub(super) upstream: Vec<Range<usize>>,
}

impl LocatedRelay {
    /// Reads a section; `None` if it lacks the address to listen on.
    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Option<Self> {
        section.refuse_unknown(problems);
        let netns = netns(section, problems);
        section.require("listen", "\"0.0.0.0:443\"", problems);
        let listen = section.string("listen", problems).and_then(|(text, span)| {
            Some((address("listen", text, span.clone(), problems)?, span))
        });
        section.require("upstream", "[\"127.0.0.1:8443\"]", problems);
        let upstreams = upstreams(section, problems);
        let accept = section.word(
            "accept",
            &[("plain", Accept::Plain), ("proxy", Accept::Proxy)],
            problems,
        );
        let balance = section.word(
            "balance",
            &[
                ("round-robin", Balance::RoundRobin),
                ("client-ip", Balance::ClientIp),
            ],
            problems,
        );
        let send = section.word(
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
        let idle = section.get("idle_timeout");
        let idle_timeout = match idle.and_then(|idle| Some((idle.get_ref().as_str()?, idle.span())))
        {
            None => Some(seconds("idle_timeout", 3600, problems)),
            Some(("off", _)) => None,
            Some((word, span)) => {
                let help =
                    "write seconds, such as `idle_timeout = 3600`, or `idle_timeout = \"off\"`";
                problems.add(
                    span,
                    format!("`idle_timeout` cannot be \"{word}\""),
                    Some(help.into()),
                );
                None
            }
        };
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

fn upstreams(section: &Section<'_, '_>, problems: &mut Problems) -> Vec<Located<SocketAddr>> {
    let Some(texts) = section.strings("upstream", problems) else {
        return Vec::new();
    };
    section.refuse_empty(
        "upstream",
        "connections would go nowhere",
        "write `upstream = [\"127.0.0.1:8443\"]`, for example",
        problems,
    );
    let mut upstreams: Vec<Located<SocketAddr>> = Vec::new();
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

fn protocol(section: &Section<'_, '_>, problems: &mut Problems) -> Protocol {
    let words = [("tcp", false), ("http", true)];
    let (is_http, _) = section.word("protocol", &words, problems);
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
