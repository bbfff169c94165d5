//! The agent's configuration.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::host::netns::Netns;
use crate::host::pins::{BPFFS, PINS};

/// The agent's configuration, as it is written to its file.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// The section `[agent]`.
    pub agent: Settings,
    /// The sections `[[trust]]`.
    pub trust: Vec<Trust>,
    /// The section `[toa]`.
    pub toa: Toa,
    /// The section `[reveal]`.
    pub reveal: Reveal,
    /// The sections below `[carry]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carry: Option<Carry>,
    /// The sections `[[steer]]`.
    pub steer: Vec<Steer>,
    /// The sections `[[unwrap]]`.
    pub unwrap: Vec<Unwrap>,
    /// The sections `[[relay]]`.
    pub relay: Vec<Relay>,
    /// The sections `[[policy]]`.
    pub policy: Vec<Policy>,
}

/// A section `[[policy]]`.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Policy {
    pub name: String,
    pub ports: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// A section `[[unwrap]]`.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Unwrap {
    pub netns: Option<PathBuf>,
    pub interface: String,
    pub ports: Vec<String>,
    pub versions: Vec<String>,
}

impl Unwrap {
    /// Takes headers of both versions off connections that come in by `interface` to `ports` of `netns`.
    pub fn new(netns: &Netns, interface: &str, ports: &[&str]) -> Self {
        Self {
            netns: Some(netns.path()),
            interface: interface.into(),
            ports: ports.iter().map(|ports| (*ports).into()).collect(),
            versions: vec!["v2".into(), "v1".into()],
        }
    }
}

/// A section `[[relay]]`. `None` leaves a setting at its default.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Relay {
    pub netns: PathBuf,
    pub listen: SocketAddr,
    pub accept: &'static str,
    pub upstream: Vec<SocketAddr>,
    pub send: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_hops: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_headers: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_timeout: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
}

impl Relay {
    /// Takes PROXY headers on `listen` inside `netns`, and tells `upstream` by `send`.
    pub fn proxy(
        netns: &Netns,
        listen: SocketAddr,
        upstream: SocketAddr,
        send: &'static str,
    ) -> Self {
        Self {
            netns: netns.path(),
            listen,
            accept: "proxy",
            upstream: vec![upstream],
            send,
            balance: None,
            protocol: None,
            trusted_hops: None,
            add_headers: None,
            header_timeout: None,
            idle_timeout: None,
            max_connections: None,
        }
    }
}

/// A section `[[trust]]`. What is empty or `None` is left at its default.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Trust {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cgroup: Vec<String>,
    pub says: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local_source: Vec<IpAddr>,
}

impl Trust {
    /// Believes all that senders in these prefixes can say, by a rule for each.
    pub fn sources(prefixes: impl IntoIterator<Item: ToString>) -> impl Iterator<Item = Self> {
        Self::saying(&["toa", "proxy", "xff"], prefixes)
    }

    /// Believes this of senders in these prefixes, by a rule for each.
    pub fn saying(
        says: &[&'static str],
        prefixes: impl IntoIterator<Item: ToString>,
    ) -> impl Iterator<Item = Self> {
        prefixes.into_iter().map(|prefix| Self {
            source: vec![prefix.to_string()],
            says: says.into(),
            ..Self::default()
        })
    }

    /// Believes TOA of senders in these prefixes if it is signed, by a rule for each.
    pub fn signers(prefixes: impl IntoIterator<Item: ToString>) -> impl Iterator<Item = Self> {
        Self::saying(&["toa"], prefixes).map(|rule| Self {
            signed: Some(true),
            ..rule
        })
    }

    /// Believes a user's proxies in their own network namespace.
    pub fn uid(uid: u32) -> Self {
        Self {
            uid: vec![uid],
            says: vec!["bind"],
            ..Self::default()
        }
    }

    /// Believes a cgroup's proxies in their own network namespace.
    pub fn cgroup(path: String) -> Self {
        Self {
            cgroup: vec![path],
            says: vec!["bind"],
            ..Self::default()
        }
    }

    /// Believes the proxies further: on this `host`, or also where TOA tells of them (`carry`).
    pub fn reach(self, reach: &'static str) -> Self {
        Self {
            reach: Some(reach),
            ..self
        }
    }
}

/// The section `[toa]`.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Toa {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<PathBuf>,
}

/// The section `[reveal]`.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Reveal {
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inexpressible: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<String>,
}

impl Default for Reveal {
    fn default() -> Self {
        Self {
            enabled: true,
            inexpressible: None,
            cgroups: Vec::new(),
        }
    }
}

/// The sections below `[carry]`.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Carry {
    pub toa: CarryToa,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node: Vec<CarryNode>,
}

/// A section `[[carry.node]]`.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct CarryNode {
    pub netns: PathBuf,
    pub interface: Vec<String>,
    pub ports: Vec<String>,
}

impl CarryNode {
    /// Adds TOA to SYNs that come into `netns` by this interface to these ports.
    pub fn new(netns: &Netns, interface: &str, ports: &[&str]) -> Self {
        Self {
            netns: netns.path(),
            interface: vec![interface.into()],
            ports: ports.iter().map(|ports| (*ports).into()).collect(),
        }
    }
}

/// The section `[carry.toa]`.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct CarryToa {
    pub to: Vec<String>,
    pub kind: u8,
}

impl Default for CarryToa {
    fn default() -> Self {
        Self {
            to: Vec::new(),
            kind: 254,
        }
    }
}

/// The section `[agent]`, with the settings that keep several agents on one host apart.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Settings {
    pub socket: PathBuf,
    pub metrics: String,
    pub bpffs: PathBuf,
    pub pods: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    pub access_log: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log_of: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtimes: Option<Vec<PathBuf>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origins: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<u32>,
    pub keep: bool,
}

/// A section `[[steer]]`.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Steer {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    pub ports: Vec<String>,
    pub to: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<String>>,
}

impl Steer {
    /// Steers `ports` of `netns` to the proxy on port `to`, or to its workers on several ports: `"8081-8084"`.
    pub fn new(name: &str, netns: &Netns, ports: &[&str], to: impl Into<Value>) -> Self {
        Self {
            name: name.into(),
            netns: Some(netns.path()),
            ports: ports.iter().map(|ports| (*ports).into()).collect(),
            to: to.into(),
            ..Self::default()
        }
    }

    /// Steers only what comes in by this interface.
    pub fn on(mut self, interface: &str) -> Self {
        self.interface = Some(interface.into());
        self
    }

    /// Makes the proxy a gateway's, which gets the servers' answers by this interface.
    pub fn answers(mut self, interface: &str) -> Self {
        self.answers = Some(vec![interface.into()]);
        self
    }
}

impl Config {
    /// A configuration whose files are in `directory`.
    pub fn new(directory: &Path, steer: impl IntoIterator<Item = Steer>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // The kernel chooses a free port; the listener is closed at the end of this statement.
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self {
            agent: Settings {
                socket: directory.join(format!("agent-{n}/truepeer.sock")),
                metrics: metrics.to_string(),
                bpffs: format!("{BPFFS}/{PINS}{pid}-{n}").into(),
                pods: directory.join(format!("agent-{n}/pods")),
                log: None,
                access_log: directory.join(format!("access-{n}.log")),
                access_log_of: None,
                runtimes: None,
                origins: None,
                drain: None,
                keep: false,
            },
            trust: Vec::new(),
            toa: Toa::default(),
            reveal: Reveal::default(),
            carry: None,
            steer: steer.into_iter().collect(),
            unwrap: Vec::new(),
            relay: Vec::new(),
            policy: Vec::new(),
        })
    }

    /// Writes it beside the API's socket.
    pub fn write(&self) -> Result<PathBuf> {
        let path = self.agent.socket.with_file_name("truepeer.toml");
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&path, toml::to_string(self)?)?;
        Ok(path)
    }
}
