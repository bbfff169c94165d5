//! A node's directories, and containers of the DaemonSet on it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tests::cluster::cni::{self, IFNAME};
use tests::cluster::daemonset::{Container, Node};
use tests::cluster::manifests::{deploy, kustomize, only};
use tests::host::netns::Netns;
use tests::host::process::unique;
use tests::wait::{Limit, SOON};

pub(super) const APPLICATION: u16 = 8080;
pub(super) const PROXY: u16 = 15006;

/// What the runtime finds before truepeer comes.
pub(super) const NETWORK: &str =
    "{\"cniVersion\": \"1.0.0\", \"name\": \"pods\", \"plugins\": [{\"type\": \"ptp\"}]}\n";

/// A node's directories.
pub(super) struct Directories {
    pub(super) root: PathBuf,
}

impl Directories {
    const NAMES: [&str; 8] = [
        "bpf",
        "keys",
        "run",
        "state",
        "runtime",
        "cni-results",
        "cni-bin",
        "cni-conf",
    ];

    pub(super) fn new(directory: &Path) -> Result<Self> {
        let root = directory.join("node");
        for name in Self::NAMES {
            fs::create_dir_all(root.join(name))?;
        }
        // The node has a bpffs of its own.
        let flags = MsFlags::empty();
        mount(
            Some("bpf"),
            &root.join("bpf"),
            Some("bpf"),
            flags,
            None::<&str>,
        )?;
        Ok(Self { root })
    }

    /// The node for pods that start with what the manifests configure and with `more`, and with this entry of the plugin. As in a
    /// cluster, pods that have started with something else keep it.
    pub(super) fn node<'a>(&self, netns: &'a Netns, more: &str, entry: &Value) -> Result<Node<'a>> {
        let config = self.root.join(unique("config"));
        fs::create_dir(&config)?;
        let toml = fs::read_to_string(deploy().join("kustomize/agent/truepeer.toml"))?;
        fs::write(config.join("truepeer.toml"), format!("{toml}\n{more}"))?;
        fs::write(config.join("plugin.json"), entry.to_string())?;
        let own = Self::NAMES.map(|name| (name, self.root.join(name)));
        let others = [
            ("config", config),
            ("cgroup", "/sys/fs/cgroup".into()),
            ("netns", "/run/netns".into()),
        ];
        Ok(Node {
            netns,
            volumes: own.into_iter().chain(others).collect(),
        })
    }

    /// Fails unless truepeer has left nothing in them.
    pub(super) fn ensure_bare(&self) -> Result<()> {
        for name in ["bpf", "run", "state", "cni-bin"] {
            let mut left = self.list(name)?;
            // The kernel itself puts these into every bpffs.
            left.retain(|name| !name.ends_with(".debug"));
            ensure!(left.is_empty(), "{name}: {left:?}");
        }
        Ok(())
    }

    /// Names of what is in one of them.
    pub(super) fn list(&self, name: &str) -> Result<Vec<String>> {
        let mut names: Vec<_> = fs::read_dir(self.root.join(name))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        let _ = umount2(&self.root.join("bpf"), MntFlags::MNT_DETACH);
    }
}

/// The plugin's entry in the manifests.
pub(super) fn entry() -> Result<Value> {
    let entry = fs::read(deploy().join("kustomize/agent/plugin.json"))?;
    Ok(serde_json::from_slice(&entry)?)
}

/// The plugins of a network's list.
pub(super) fn plugins(network: &Path) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_slice(&fs::read(network)?)?;
    Ok(list["plugins"].as_array().context("no plugins")?.clone())
}

pub(super) fn daemonset(name: &str) -> Result<Value> {
    Ok(only(&kustomize(name)?, "DaemonSet")?.clone())
}

/// Starts the agent and waits for the kubelet's probes.
pub(super) fn agent(
    directory: &Path,
    bundle: &Path,
    manifest: &Value,
    node: &Node,
) -> Result<Container> {
    let mut container = Container::start(directory, bundle, manifest, "agent", node)?;
    container.wait_until_succeeds(&startup(manifest)?)?;
    // The others come when the first has succeeded.
    container.wait_until_ready(|| Ok(answers(manifest, node).is_ok()))?;
    Ok(container)
}

/// The command that tells a kubelet whether the agent of its container is in place.
pub(super) fn startup(manifest: &Value) -> Result<Vec<&str>> {
    let probe = &manifest["spec"]["template"]["spec"]["containers"][0]["startupProbe"];
    let command = probe["exec"]["command"].as_array().context("no command")?;
    let words = command.iter().map(|word| word.as_str().context("no word"));
    words.collect()
}

/// Sends the other probes as a kubelet does, and asserts that an agent answers.
pub(super) fn answers(manifest: &Value, node: &Node) -> Result<()> {
    let container = &manifest["spec"]["template"]["spec"]["containers"][0];
    for probe in ["livenessProbe", "readinessProbe"] {
        let probe = &container[probe]["httpGet"];
        let address = format!(
            "{}:{}",
            probe["host"].as_str().context("no host")?,
            probe["port"]
        );
        let mut stream = node.netns.enter(|| TcpStream::connect(address))?;
        stream.set_read_timeout(Some(SOON.here()))?;
        let path = probe["path"].as_str().context("no path")?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
    Ok(())
}

/// A pod of the DaemonSet, whose containers a kubelet starts and stops in this order.
pub(super) struct Pod {
    pub(super) agent: Container,
    pub(super) cni: Container,
}

impl Pod {
    /// Starts it and waits until it is ready.
    pub(super) fn start(
        directory: &Path,
        bundle: &Path,
        manifest: &Value,
        node: &Node,
    ) -> Result<Self> {
        let cni = Container::start(directory, bundle, manifest, "cni", node)?;
        let agent = agent(directory, bundle, manifest, node)?;
        Ok(Self { agent, cni })
    }

    /// Waits for the end of an agent that was asked to stop, and stops the sidecar.
    pub(super) fn ended(mut self, patience: Limit) -> Result<()> {
        self.agent.ended(patience)?;
        self.cni.stop(patience)
    }
}

/// How long a kubelet waits for a stopping pod.
pub(super) fn patience(manifest: &Value) -> Result<Limit> {
    let seconds = manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64();
    Ok(Limit::secs(seconds.context("no grace period")?))
}

/// A container runtime of the node has the plugin steer a pod, as its annotations say.
pub(super) fn add(directories: &Directories, node: &Node, pod: &Netns) -> Result<()> {
    let mut input = entry()?;
    input["cniVersion"] = json!("1.0.0");
    input["name"] = json!("pods");
    input["prevResult"] = json!({"cniVersion": "1.0.0", "interfaces": [{"name": IFNAME}]});
    input["runtimeConfig"] = json!({"io.kubernetes.cri.pod-annotations": {
        "truepeer.io/steer-ports": APPLICATION.to_string(),
        "truepeer.io/steer-to": PROXY.to_string(),
    }});
    // The plugin must not ask the host's own agent.
    input["socket"] = json!(directories.root.join("run/truepeer.sock"));
    input["pods"] = json!(directories.root.join("state/pods"));
    let environment = [
        ("CNI_CONTAINERID", "some".to_owned()),
        ("CNI_NETNS", format!("/var/run/netns/{}", pod.name())),
        ("CNI_IFNAME", IFNAME.to_owned()),
    ];
    cni::run(
        node.netns,
        "truepeer",
        "ADD",
        &environment,
        &input.to_string(),
    )
    .map(drop)
}
