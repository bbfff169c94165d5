//! The agent under test.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::eventually;
use crate::netns::{Netns, run};
use crate::process::Process;

/// Where BPF objects are pinned.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// What the agent logs when it has taken up its configuration again.
const READ_AGAIN: &str = "configuration read again";
/// Every directory of pins of this crate begins with this, followed by the process that made it.
pub(crate) const PINS: &str = "truepeer-";

/// The agent's configuration, as it is written to its file.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// The section `[agent]`.
    pub agent: Settings,
    /// The section `[trust]`.
    pub trust: Trust,
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
    /// Headers of both versions are taken off connections to ports of `netns`.
    pub fn new(netns: &Netns, interface: &str, ports: &[&str]) -> Self {
        Self {
            netns: Some(netns.path()),
            interface: interface.into(),
            ports: ports.iter().map(|ports| (*ports).into()).collect(),
            versions: vec!["v2".into(), "v1".into()],
        }
    }
}

/// A section `[[relay]]`; what is `None` is left to the default.
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

/// The section `[trust]`.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Trust {
    pub uids: Vec<u32>,
    pub cgroups: Vec<String>,
    pub sources: Vec<String>,
    pub signers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<PathBuf>,
    pub local_source: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toa: Option<Vec<String>>,
}

/// The section `[reveal]`.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Reveal {
    pub enabled: bool,
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
    pub interface: String,
    pub ports: Vec<String>,
}

impl CarryNode {
    /// SYNs to ports that come into `netns` by this interface.
    pub fn new(netns: &Netns, interface: &str, ports: &[&str]) -> Self {
        Self {
            netns: netns.path(),
            interface: interface.into(),
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

/// The section `[agent]`: what must differ from the defaults so that agents do not meet.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the configuration's own names")]
pub struct Settings {
    pub socket: PathBuf,
    pub metrics: String,
    pub bpffs: PathBuf,
    pub pods: PathBuf,
    pub access_log: PathBuf,
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
    /// Ports of `netns` go to the proxy on port `to`, or to one on several ports: `"8081-8084"`.
    pub fn new(name: &str, netns: &Netns, ports: &[&str], to: impl Into<Value>) -> Self {
        Self {
            name: name.into(),
            netns: Some(netns.path()),
            ports: ports.iter().map(|ports| (*ports).into()).collect(),
            to: to.into(),
            ..Self::default()
        }
    }

    /// What comes in by this interface only.
    pub fn on(mut self, interface: &str) -> Self {
        self.interface = Some(interface.into());
        self
    }

    /// As a gateway, answered through this interface.
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
        // The kernel chooses a free port, which is free again when this statement ends.
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self {
            agent: Settings {
                socket: directory.join(format!("agent-{n}/truepeer.sock")),
                metrics: metrics.to_string(),
                bpffs: format!("{BPFFS}/{PINS}{pid}-{n}").into(),
                pods: directory.join(format!("agent-{n}/pods")),
                access_log: directory.join(format!("access-{n}.log")),
                origins: None,
                drain: None,
                keep: false,
            },
            trust: Trust::default(),
            reveal: Reveal { enabled: true },
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

/// A running `truepeer run`, stopped on drop.
pub struct Agent {
    binary: PathBuf,
    process: Process,
    config: Config,
    /// From the start of the process until it said that it was ready.
    pub ready_after: Duration,
}

/// A peer as the API shows it.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the API's own names")]
pub struct Peer {
    pub cookie: u64,
    pub protocol: String,
    pub client: SocketAddr,
    pub original_dst: SocketAddr,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub evidence: String,
    pub trusted_by: String,
    #[serde(default)]
    pub proxy: Value,
    pub namespace: Option<String>,
    pub pod: Option<String>,
    pub container: Option<String>,
}

/// Live connections with an origin.
#[derive(Clone, Debug)]
pub struct Peers(pub Vec<Peer>);

impl Peers {
    /// The one between these two ends; `None`: its origin is unknown.
    pub fn find(&self, local: SocketAddr, remote: SocketAddr) -> Option<&Peer> {
        self.0
            .iter()
            .find(|peer| peer.local == local && peer.remote == remote)
    }
}

impl Agent {
    /// Starts it and waits until it is ready.
    pub fn start(directory: &Path, config: Config) -> Result<Self> {
        Self::start_binary(&binary()?, directory, config)
    }

    /// Starts another binary than that of [`binary`].
    pub fn start_binary(binary: &Path, directory: &Path, config: Config) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["run", "--config"]).arg(config.write()?);
        let started = Instant::now();
        let mut process = Process::start("agent", command, directory)?;
        let socket = &config.agent.socket;
        process.wait_until_ready(|| Ok(matches!(get(socket, "/readyz"), Ok((200, _)))))?;
        Ok(Self {
            ready_after: started.elapsed(),
            binary: binary.to_owned(),
            process,
            config,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        self.process.log()
    }

    /// Live connections with an origin.
    pub fn peers(&self) -> Result<Peers> {
        self.read("/v1/peers").map(Peers)
    }

    /// What `truepeer peer` tells inside `netns` of the connection between these two ends.
    pub fn ask_inside(&self, netns: &Netns, local: SocketAddr, remote: SocketAddr) -> Result<Peer> {
        let binary = self.binary.display().to_string();
        let mut command = netns.command(&binary)?;
        command
            .args(["peer", "--output", "json", "--socket"])
            .arg(&self.config.agent.socket)
            .args(["--local", &local.to_string()])
            .args(["--remote", &remote.to_string()]);
        Ok(serde_json::from_str(&run(&mut command)?)?)
    }

    /// The busiest prefixes of clients, by connections, bytes or refused ones.
    pub fn top(&self, by: &str) -> Result<Value> {
        self.read(&format!("/v1/top?by={by}"))
    }

    /// The attachments of pods that it serves.
    pub fn pods(&self) -> Result<Vec<Value>> {
        self.read("/v1/pods")
    }

    /// Programs, maps and counters.
    pub fn status(&self) -> Result<Value> {
        self.read("/v1/status")
    }

    /// One of the data path's counters.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let status = self.status()?;
        status["counters"][counter.name()]
            .as_u64()
            .with_context(|| format!("no counter {} in {status}", counter.name()))
    }

    /// The value of a metric, named with its labels: `truepeer_relay_bytes_total{relay="…"}`.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let text = self.metrics()?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .with_context(|| format!("no metric {name} in {text}"))
    }

    /// All metrics.
    pub fn metrics(&self) -> Result<String> {
        let (status, text) = get(&self.config.agent.socket, "/metrics")?;
        ensure!(status == 200, "/metrics: {status} {text}");
        Ok(text)
    }

    /// How many connections a policy let in, and how many it refused.
    pub fn tally(&self, policy: &str) -> Result<(u64, u64)> {
        let status = self.status()?;
        let tally = status["policies"]
            .as_array()
            .and_then(|policies| policies.iter().find(|tally| tally["policy"] == policy))
            .with_context(|| format!("no policy {policy} in {status}"))?;
        let number = |key: &str| {
            tally[key]
                .as_u64()
                .with_context(|| format!("{key}: {tally}"))
        };
        Ok((number("allowed")?, number("denied")?))
    }

    /// How many origins are in the map.
    pub fn origins(&self) -> Result<u64> {
        self.entries("ORIGINS")
    }

    /// How many entries a map has, of those that the status tells.
    pub fn entries(&self, map: &str) -> Result<u64> {
        let status = self.status()?;
        status["maps"]
            .as_array()
            .and_then(|maps| maps.iter().find(|entry| entry["name"] == map))
            .and_then(|map| map["entries"].as_u64())
            .with_context(|| format!("no map {map} in {status}"))
    }

    /// The access log so far.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.config.agent.access_log)?;
        // The last line may be half written.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("access log: {line}")))
            .collect()
    }

    /// Sends SIGTERM and waits until it has gone.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(Duration::from_secs(40))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Has it take up another configuration, of the same file.
    pub fn reload(&self, config: &Config) -> Result<()> {
        let times = || Ok::<_, anyhow::Error>(self.log()?.matches(READ_AGAIN).count());
        let before = times()?;
        config.write()?;
        self.signal(Signal::SIGHUP)?;
        eventually(READ_AGAIN, Duration::from_secs(5), || {
            Ok((times()? > before).then_some(()))
        })
    }

    /// Its exit status; `None` while it runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.process.exited()
    }

    /// Kills it, as a crash would; its configuration for a successor.
    pub fn kill(self) -> Result<Config> {
        self.process.kill()?;
        Ok(self.config)
    }

    fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (status, body) = get(&self.config.agent.socket, path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))
    }
}

/// Runs a command of the agent's binary to its end.
pub fn truepeer(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()?).args(arguments).output()?)
}

/// The agent's binary: named by `TRUEPEER_BIN`, or the newest that was built here.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRUEPEER_BIN") {
        return Ok(path.into());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile).join("truepeer"))
        .filter_map(|path| Some((path.metadata().and_then(|m| m.modified()).ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .context("the agent is not built: run `cargo xtask test`, which builds it")
}

/// Asks the API; status and body.
fn get(socket: &Path, path: &str) -> Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // With HTTP/1.0 the answer is not chunked, and ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("no HTTP status in {head:?}"))?;
    Ok((status, body.to_owned()))
}
