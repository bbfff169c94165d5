//! A node's directories, and containers of the DaemonSet on it.

use std::collections::BTreeMap;
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
use tests::wait::Limit;

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
    const NAMES: [&str; 9] = [
        "bpf",
        "config",
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

    pub(super) fn volumes(&self) -> BTreeMap<&str, PathBuf> {
        let own = Self::NAMES.map(|name| (name, self.root.join(name)));
        let shared = [("cgroup", "/sys/fs/cgroup"), ("netns", "/run/netns")];
        own.into_iter()
            .chain(shared.map(|(name, path)| (name, path.into())))
            .collect()
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
    let agent = &manifest["spec"]["template"]["spec"]["containers"][0];
    for probe in ["livenessProbe", "readinessProbe"] {
        container.wait_until_ready(|| {
            Ok(answers(node.netns, agent, &agent[probe]["httpGet"]).is_ok())
        })?;
    }
    Ok(container)
}

/// Sends a probe as a kubelet does, and asserts that the agent answers.
pub(super) fn answers(node: &Netns, container: &Value, probe: &Value) -> Result<()> {
    ensure!(probe["port"] == container["ports"][0]["name"], "{probe}");
    let port = container["ports"][0]["containerPort"]
        .as_u64()
        .context("no port")?;
    let address = format!("{}:{port}", probe["host"].as_str().context("no host")?);
    let mut stream = node.enter(|| TcpStream::connect(address))?;
    let path = probe["path"].as_str().context("no path")?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    Ok(())
}

/// How long a kubelet waits for a stopping pod.
pub(super) fn patience(manifest: &Value) -> Result<Limit> {
    let seconds = manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64();
    Ok(Limit::secs(seconds.context("no grace period")?))
}

/// A container runtime of the node has the plugin steer a pod, as its annotations say.
pub(super) fn add(directories: &Directories, node: &Node, pod: &Netns) -> Result<()> {
    let entry = fs::read(deploy().join("kustomize/agent/plugin.json"))?;
    let mut input: Value = serde_json::from_slice(&entry)?;
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
