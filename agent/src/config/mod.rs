//! The configuration: what the operator writes, checked before anything is attached.
//!
//! Every problem of a file is reported at once, each with its line, the reason and the nearest valid
//! form ([`ConfigError`]).

mod carry;
mod check;
pub mod keys;
mod policy;
mod problem;
mod reader;
mod relay;
mod steer;
mod trust;
mod unwrap;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_common::toa::{Kinds, LEN_V4, LEN_V6};
pub use carry::{CarryNode, CarryToa};
pub use policy::Policy;
pub use problem::ConfigError;
use problem::Problems;
use reader::{Section, describe};
pub use relay::{Accept, Balance, Http, Protocol, Relay, Send};
pub use steer::Steer;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
pub use trust::{Reveal, Trust};
pub use unwrap::Unwrap;

use crate::observe::statistics::Lengths;
use crate::workloads::containers;

/// The default configuration, commented: what `truepeer config default` prints.
pub const DEFAULT: &str = include_str!("default.toml");

/// Sections of the file, with the keys of each.
const SECTIONS: [(&str, &[&str]); 8] = [
    ("agent", &AGENT_KEYS),
    ("trust", &trust::TRUST_KEYS),
    ("steer", &steer::KEYS),
    ("reveal", &trust::REVEAL_KEYS),
    ("carry", &carry::KEYS),
    ("unwrap", &unwrap::KEYS),
    ("relay", &relay::KEYS),
    ("policy", &policy::KEYS),
];
const AGENT_KEYS: [&str; 11] = [
    "socket",
    "metrics",
    "bpffs",
    "pods",
    "access_log",
    "origins",
    "drain",
    "keep",
    "top_ipv4",
    "top_ipv6",
    "runtimes",
];

const METRICS_PORT: u16 = 9469;

/// Room in `sockaddr_un` for a path, without its final zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Everything that `truepeer run` is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The agent itself.
    pub agent: AgentSettings,
    /// Who may speak for a client.
    pub trust: Trust,
    /// Who is told the client.
    pub reveal: Reveal,
    /// What is steered to local proxies, in the order of the file.
    pub steer: Vec<Steer>,
    /// Where PROXY headers are taken off, in the order of the file.
    pub unwrap: Vec<Unwrap>,
    /// Where TOA is sent.
    pub carry_toa: CarryToa,
    /// Where SYNs are given TOA before the node's own NAT, in the order of the file.
    pub carry_node: Vec<CarryNode>,
    /// The agent's own relays, in the order of the file.
    pub relay: Vec<Relay>,
    /// Which clients may connect, in the order of the file.
    pub policy: Vec<Policy>,
}

/// The section `[agent]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// The API's Unix socket; lock file and journal lie beside it.
    pub socket: PathBuf,
    /// TCP address of the metrics and health endpoints; `None`: off.
    pub metrics: Option<SocketAddr>,
    /// Directory of the pins, on a bpffs.
    pub bpffs: PathBuf,
    /// Directory in which the CNI plugin remembers pods.
    pub pods: PathBuf,
    /// Where closed connections are logged.
    pub access_log: AccessLogTarget,
    /// How many connections can have an origin at a time.
    pub origins: u32,
    /// How long a stopping agent waits for steered connections to end.
    pub drain: Duration,
    /// Whether the data path stays when the agent stops, until `truepeer detach`.
    pub keep: bool,
    /// Which clients are counted together.
    pub top: Lengths,
    /// State directories of container runtimes and of libcni.
    pub runtimes: Vec<PathBuf>,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// To standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// Appended to this file.
    File(PathBuf),
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            socket: "/run/truepeer/truepeer.sock".into(),
            metrics: Some((Ipv4Addr::LOCALHOST, METRICS_PORT).into()),
            bpffs: "/sys/fs/bpf/truepeer".into(),
            pods: "/var/lib/truepeer/pods".into(),
            access_log: AccessLogTarget::Stdout,
            origins: 1 << 20,
            drain: Duration::from_secs(30),
            keep: false,
            top: Lengths::default(),
            runtimes: containers::DIRECTORIES.map(Into::into).into(),
        }
    }
}

impl Config {
    /// The options that are taken for TOA: none while nobody could be believed, and what this node writes
    /// itself.
    pub fn kinds(&self) -> Kinds {
        match (self.trust.reads_toa(), &self.carry_node[..]) {
            (false, []) => Kinds::NONE,
            (true, []) => self.trust.toa,
            _ => {
                let kind = self.carry_toa.kind;
                self.trust.toa.with(kind, LEN_V4).with(kind, LEN_V6)
            }
        }
    }

    /// Reads and checks a file; without a path, the default configuration.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Self::parse(DEFAULT, "default configuration");
        };
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            ConfigError::file(
                &name,
                format!("cannot read it: {error}"),
                "`truepeer config default` prints a configuration to start from",
            )
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
            ConfigError::file(
                &name,
                format!("line {line} is not UTF-8"),
                "save the file as UTF-8",
            )
        })?;
        Self::parse(&text, &name)
    }

    /// Checks the text of a configuration; `file_name` is what errors call it.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigError> {
        let (document, syntax) = DeTable::parse_recoverable(text);
        let mut problems = Problems::default();
        for error in syntax {
            problems.add(error.span().unwrap_or(0..0), error.message(), None);
        }
        // What the parser made of broken lines would only yield errors that are not there.
        problems.done(text, file_name)?;
        let config = Self::read(document.get_ref(), &mut problems);
        problems.done(text, file_name)?;
        Ok(config)
    }

    /// Checks what is written as JSON; `source` is what errors call it. They show it as TOML.
    pub fn from_json(value: &serde_json::Value, source: &str) -> Result<Self, ConfigError> {
        let text = toml::to_string(value).map_err(|error| {
            ConfigError::file(source, error.to_string(), "write what TOML can say, too")
        })?;
        Self::parse(&text, source)
    }

    fn read(document: &DeTable<'_>, problems: &mut Problems) -> Self {
        let mut config = Self::default();
        let mut steers = Vec::new();
        let mut relays = Vec::new();
        for (key, value) in document {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("agent", DeValue::Table(table)) => {
                    let section = Section::new("[agent]", table, value.span(), &AGENT_KEYS);
                    config.agent = AgentSettings::read(&section, problems);
                }
                ("trust", DeValue::Table(table)) => {
                    let section = Section::new("[trust]", table, value.span(), &trust::TRUST_KEYS);
                    config.trust = Trust::read(&section, problems);
                }
                ("reveal", DeValue::Table(table)) => {
                    let section =
                        Section::new("[reveal]", table, value.span(), &trust::REVEAL_KEYS);
                    config.reveal = Reveal::read(&section, problems);
                }
                ("carry", DeValue::Table(table)) => {
                    let section = Section::new("[carry]", table, value.span(), &carry::KEYS);
                    section.refuse_unknown(problems);
                    match section.get("toa").map(|toa| (toa.span(), toa.get_ref())) {
                        None => {}
                        Some((span, DeValue::Table(table))) => {
                            let section =
                                Section::new("[carry.toa]", table, span, &carry::TOA_KEYS);
                            config.carry_toa = CarryToa::read(&section, problems);
                        }
                        Some((span, other)) => not_a_section(span, "carry.toa", other, problems),
                    }
                    if let Some(nodes) = section.get("node") {
                        let (name, header) = ("carry.node", "[[carry.node]]");
                        let sections = sections(name, header, &carry::NODE_KEYS, nodes, problems);
                        let read = |section| CarryNode::read(&section, problems);
                        config.carry_node = sections.into_iter().filter_map(read).collect();
                    }
                }
                (name @ ("agent" | "trust" | "reveal" | "carry"), other) => {
                    not_a_section(value.span(), name, other, problems);
                }
                ("steer", _) => {
                    let sections = sections("steer", "[[steer]]", &steer::KEYS, value, problems);
                    let read = |section| steer::Located::read(&section, problems);
                    steers = sections.into_iter().filter_map(read).collect();
                }
                ("unwrap", _) => {
                    let sections = sections("unwrap", "[[unwrap]]", &unwrap::KEYS, value, problems);
                    let read = |section| Unwrap::read(&section, problems);
                    config.unwrap = sections.into_iter().filter_map(read).collect();
                }
                ("relay", _) => {
                    let sections = sections("relay", "[[relay]]", &relay::KEYS, value, problems);
                    let read = |section| relay::Located::read(&section, problems);
                    relays = sections.into_iter().filter_map(read).collect();
                }
                ("policy", _) => {
                    let sections = sections("policy", "[[policy]]", &policy::KEYS, value, problems);
                    config.policy = policy::read(&sections, problems);
                }
                (name, _) => {
                    let home = SECTIONS.iter().find(|(_, keys)| keys.contains(&name));
                    let nearest = reader::nearest(name, SECTIONS.iter().map(|(name, _)| *name));
                    let (message, hint) = match (home, nearest) {
                        (Some((section, _)), _) => (
                            format!("key `{name}` is outside of its section"),
                            format!("move it below `{}`", header(section)),
                        ),
                        (None, Some(section)) => (
                            format!("unknown section `{name}`, did you mean `{section}`?"),
                            format!("write `{}`", header(section)),
                        ),
                        (None, None) => (
                            format!("unknown section `{name}`"),
                            "the sections are `[agent]`, `[trust]`, `[reveal]`, `[carry.toa]`, `[[carry.node]]`, `[[steer]]`, `[[unwrap]]`, `[[relay]]` and `[[policy]]`"
                                .into(),
                        ),
                    };
                    problems.add(key.span(), message, Some(hint));
                }
            }
        }
        check::steers(&steers, problems);
        relay::check(&relays, &config.trust, &config.carry_toa, problems);
        config.steer = steers.into_iter().map(|located| located.steer).collect();
        config.relay = relays.into_iter().map(|located| located.relay).collect();
        config
    }
}

fn not_a_section(
    span: std::ops::Range<usize>,
    name: &str,
    value: &DeValue<'_>,
    problems: &mut Problems,
) {
    problems.add(
        span,
        format!("`{name}` is {}, not a section", describe(value)),
        Some(format!("write `[{name}]`")),
    );
}

/// The sections of a name that can be there several times.
fn sections<'a, 'text>(
    name: &str,
    header: &'static str,
    keys: &'static [&'static str],
    value: &'a Spanned<DeValue<'text>>,
    problems: &mut Problems,
) -> Vec<Section<'a, 'text>> {
    let mut not_sections = |span, value: &DeValue<'_>| {
        let message = match value {
            DeValue::Table(_) => format!("`{name}` is one section, but there can be several"),
            other => format!("`{name}` is {}, not a list of sections", describe(other)),
        };
        let help = format!("write `{header}`, in double brackets");
        problems.add(span, message, Some(help));
    };
    let DeValue::Array(array) = value.get_ref() else {
        not_sections(value.span(), value.get_ref());
        return Vec::new();
    };
    let mut sections = Vec::new();
    for item in array.iter() {
        match item.get_ref() {
            DeValue::Table(table) => sections.push(Section::new(header, table, item.span(), keys)),
            other => not_sections(item.span(), other),
        }
    }
    sections
}

fn header(section: &str) -> String {
    match section {
        "steer" | "unwrap" | "relay" | "policy" => format!("[[{section}]]"),
        _ => format!("[{section}]"),
    }
}

impl AgentSettings {
    /// The file that says what to undo: rules, routes and sysctls.
    pub fn journal(&self) -> PathBuf {
        self.socket.with_file_name("journal.json")
    }

    fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Self {
        let default = Self::default();
        section.refuse_unknown(problems);
        let socket = section.path("socket", problems);
        if let Some((path, span)) = &socket {
            let length = path.as_os_str().len();
            if length > SOCKET_PATH_MAX {
                problems.add(
                    span.clone(),
                    format!(
                        "the path has {length} bytes, a Unix socket's has {SOCKET_PATH_MAX} at most"
                    ),
                    Some(
                        "choose a shorter directory, such as \"/run/truepeer/truepeer.sock\""
                            .into(),
                    ),
                );
            }
        }
        Self {
            socket: socket.map_or(default.socket, |(path, _)| path),
            metrics: match section.string("metrics", problems) {
                None => default.metrics,
                Some(("off", _)) => None,
                Some((text, span)) => match text.parse() {
                    Ok(address) => Some(address),
                    Err(_) => {
                        problems.add(
                            span,
                            format!("`metrics` is neither an address with a port nor \"off\": \"{text}\""),
                            Some(format!("write \"{}\"", nearest_address(text, METRICS_PORT))),
                        );
                        None
                    }
                },
            },
            bpffs: section
                .path("bpffs", problems)
                .map_or(default.bpffs, |(path, _)| path),
            pods: section
                .path("pods", problems)
                .map_or(default.pods, |(path, _)| path),
            access_log: match section.string("access_log", problems) {
                None => default.access_log,
                Some(("stdout", _)) => AccessLogTarget::Stdout,
                Some(("off", _)) => AccessLogTarget::Off,
                Some((text, span)) => {
                    if !text.starts_with('/') {
                        let hint = match reader::nearest(text, ["stdout", "off"]) {
                            Some(word) => format!("write \"{word}\""),
                            None => format!("write \"/var/log/{text}\", for example"),
                        };
                        problems.add(
                            span,
                            format!("`access_log` is neither \"stdout\" nor \"off\" nor an absolute path: \"{text}\""),
                            Some(hint),
                        );
                    }
                    AccessLogTarget::File(text.into())
                }
            },
            origins: section
                .integer("origins", 1..=1 << 24, problems)
                .map_or(default.origins, |(n, _)| n),
            drain: section
                .integer("drain", 0..=86_400, problems)
                .map_or(default.drain, |(n, _)| Duration::from_secs(n.into())),
            keep: section.boolean("keep", problems).unwrap_or(default.keep),
            top: Lengths {
                ipv4: section
                    .integer("top_ipv4", 0..=32, problems)
                    .map_or(default.top.ipv4, |(n, _)| n as u8),
                ipv6: section
                    .integer("top_ipv6", 0..=128, problems)
                    .map_or(default.top.ipv6, |(n, _)| n as u8),
            },
            runtimes: section
                .paths("runtimes", problems)
                .unwrap_or(default.runtimes),
        }
    }
}

/// What someone who wrote `text` as an address may have meant.
fn nearest_address(text: &str, default_port: u16) -> String {
    let ip = |text: &str| text.trim_matches(['[', ']']).parse();
    if let Ok(ip) = ip(text) {
        return SocketAddr::new(ip, default_port).to_string();
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let ip = ip(host).unwrap_or(Ipv4Addr::LOCALHOST.into());
    SocketAddr::new(ip, port.parse().unwrap_or(default_port)).to_string()
}

#[cfg(test)]
mod tests;
