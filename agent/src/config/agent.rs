//! The section `[agent]`: the agent itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::fields::nearest_address;
use super::problem::Problems;
use super::section::Section;
use super::value::nearest;

pub(super) const KEYS: [&str; 13] = [
    "socket",
    "metrics",
    "bpffs",
    "pods",
    "log",
    "access_log",
    "access_log_of",
    "origins",
    "drain",
    "keep",
    "top_ipv4",
    "top_ipv6",
    "runtimes",
];

const METRICS_PORT: u16 = 9469;

/// The longest path in bytes that fits `sockaddr_un`, without the final zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Where containerd (also that of k3s and MicroK8s), CRI-O and Podman keep their bundles, and libcni its cache.
const RUNTIMES: [&str; 5] = [
    "/run/containerd",
    "/run/k3s/containerd",
    "/var/snap/microk8s/common/run/containerd",
    "/run/containers/storage",
    "/var/lib/cni",
];

/// The section `[agent]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// The API's Unix socket. The agent keeps its journal beside it.
    pub socket: PathBuf,
    /// TCP address of the metrics and health endpoints; `None` if they are off.
    pub metrics: Option<SocketAddr>,
    /// Directory of the pins, on a bpffs.
    pub bpffs: PathBuf,
    /// Directory in which the CNI plugin keeps a file for each attachment of a pod.
    pub pods: PathBuf,
    /// The form of the agent's own log, which goes to standard error.
    pub log: LogFormat,
    /// Destination of the access log.
    pub access_log: AccessLogTarget,
    /// What has a line there.
    pub access_log_of: Logged,
    /// How many connections can have an origin at the same time.
    pub origins: u32,
    /// How long a stopping agent waits for steered connections to end.
    pub drain: Duration,
    /// Whether the data path stays when the agent stops, until `truepeer detach`.
    pub keep: bool,
    /// By which prefixes the statistics count clients.
    pub top: PrefixLengths,
    /// State directories of container runtimes and of libcni.
    pub runtimes: Vec<PathBuf>,
}

/// Destination of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// The end of this file.
    File(PathBuf),
}

/// The form of the agent's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

impl LogFormat {
    /// As they are written; the first is the default.
    const WORDS: [(&str, Self); 2] = [("text", Self::Text), ("json", Self::Json)];
}

/// Which connections and requests have a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// All of them.
    All,
    /// Those that were refused.
    Refused,
    /// Those that were refused, and one in so many of the others.
    OneIn(u32),
}

impl Logged {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "all" => Some(Self::All),
            "refused" => Some(Self::Refused),
            text => {
                let number = text.strip_prefix("1/")?.parse().ok()?;
                (number > 0).then_some(Self::OneIn(number))
            }
        }
    }
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            socket: "/run/truepeer/truepeer.sock".into(),
            metrics: Some((Ipv4Addr::LOCALHOST, METRICS_PORT).into()),
            bpffs: "/sys/fs/bpf/truepeer".into(),
            pods: "/var/lib/truepeer/pods".into(),
            log: LogFormat::Text,
            access_log: AccessLogTarget::Stdout,
            access_log_of: Logged::All,
            origins: 1 << 20,
            drain: Duration::from_secs(30),
            keep: false,
            top: PrefixLengths::default(),
            runtimes: RUNTIMES.map(Into::into).into(),
        }
    }
}

/// Lengths of the prefixes by which clients are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLengths {
    /// Length of IPv4 prefixes, at most 32.
    pub ipv4: u8,
    /// Length of IPv6 prefixes, at most 128.
    pub ipv6: u8,
}

impl Default for PrefixLengths {
    fn default() -> Self {
        Self { ipv4: 24, ipv6: 64 }
    }
}

impl PrefixLengths {
    /// The prefix of an address.
    pub fn prefix(self, address: IpAddr) -> IpNet {
        match address {
            IpAddr::V4(ip) => Ipv4Net::new_assert(ip, self.ipv4).trunc().into(),
            IpAddr::V6(ip) => Ipv6Net::new_assert(ip, self.ipv6).trunc().into(),
        }
    }
}

impl AgentSettings {
    /// Path of the journal: which rules, routes and sysctls to undo.
    pub fn journal(&self) -> PathBuf {
        self.socket.with_file_name("journal.json")
    }

    pub(super) fn read(section: &Section<'_, '_>, problems: &mut Problems) -> Self {
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
            log: section.word("log", &LogFormat::WORDS, problems).0,
            access_log_of: match section.string("access_log_of", problems) {
                None => default.access_log_of,
                Some((text, span)) => Logged::parse(text).unwrap_or_else(|| {
                    problems.add(
                        span,
                        format!(
                            "`access_log_of` is neither \"all\" nor \"refused\" nor a share of the connections: \"{text}\""
                        ),
                        Some("write \"1/100\" for one in a hundred, beside all that were refused".into()),
                    );
                    default.access_log_of
                }),
            },
            access_log: match section.string("access_log", problems) {
                None => default.access_log,
                Some(("stdout", _)) => AccessLogTarget::Stdout,
                Some(("off", _)) => AccessLogTarget::Off,
                Some((text, span)) => {
                    if !text.starts_with('/') {
                        let hint = match nearest(text, ["stdout", "off"]) {
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
            top: PrefixLengths {
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
