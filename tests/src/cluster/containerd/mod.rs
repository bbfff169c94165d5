//! A real container runtime, containerd with runc, and pods in it, started as Kubernetes' kubelet does.

mod cri;
mod image;
mod setup;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use self::cri::{
    Capability, Client, ContainerConfig, ContainerId, ContainerMetadata, CreateContainer, Empty,
    ImageSpec, LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    PodSandboxConfig, PodSandboxId, PodSandboxMetadata, PodSandboxStatusResponse, PortMapping,
    RunPodSandbox,
};
use self::setup::{IMAGE, NETWORK, configuration, network};
use crate::agent::binary;
use crate::cluster::cni::{IFNAME, PLUGINS};
use crate::host::cgroup::Cgroup;
use crate::host::netns::{Netns, run};
use crate::host::process::{Process, find};

/// Where libcni keeps results; it cannot be told another directory.
const CACHE: &str = "/var/lib/cni/results";

/// containerd's default socket: there is only one containerd in [`own_mounts`].
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Runs `f` where `/run` and `/var/lib` are empty: a runtime uses paths there whatever it is told. Nothing of
/// it is seen elsewhere, and nothing stays.
pub fn own_mounts<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let isolate = || -> Result<()> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        for path in ["/run", "/var/lib"] {
            mount(
                none,
                path,
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=755"),
            )?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            isolate().context("cannot get mounts of our own")?;
            f()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A running containerd, stopped on drop together with all containers. To be used in [`own_mounts`].
pub struct Runtime {
    client: Client,
    log_directory: String,
    // Stopped in this order.
    _process: Process,
    _shims: Cgroup,
    pods: Cgroup,
}

/// What Kubernetes knows of a pod.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Ports of the node that lead to ports of the pod.
    pub ports: Vec<(u16, u16)>,
}

impl Spec {
    /// A pod without annotations and ports of the node.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            ..Self::default()
        }
    }

    /// With one more annotation.
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }
}

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The id of its sandbox.
    pub id: String,
    /// Its addresses; none in the node's network namespace.
    pub addresses: Vec<IpAddr>,
    config: PodSandboxConfig,
}

impl Runtime {
    /// Starts it inside `node` with an image of `program`, which pauses when it is given no arguments.
    /// Pods are connected by the reference plugins `bridge` and `portmap`, and then by `more`, among them
    /// perhaps `truepeer`.
    pub fn start(directory: &Path, node: &Netns, program: &Path, more: &[Value]) -> Result<Self> {
        let plugins = directory.join("cni-bin");
        fs::create_dir(&plugins)?;
        let reference = fs::read_dir(PLUGINS)
            .with_context(|| format!("{PLUGINS}: run `cargo xtask test`, which installs it"))?;
        for plugin in reference {
            let plugin = plugin?;
            symlink(plugin.path(), plugins.join(plugin.file_name()))?;
        }
        symlink(binary()?, plugins.join("truepeer"))?;
        let networks = directory.join("cni-conf");
        fs::create_dir(&networks)?;
        let network = network(directory, more).to_string();
        fs::write(networks.join("10-node.conflist"), network)?;

        let config = directory.join("containerd.toml");
        fs::write(&config, configuration(directory, &plugins, &networks))?;
        let shims = Cgroup::new("containerd")?;
        let mut process = shims.run(|| {
            let mut command = node.command(&find("CONTAINERD_BIN", "containerd")?)?;
            command.arg("--config").arg(&config);
            Process::start("containerd", command, directory)
        })?;
        process.wait_until_ready(|| Ok(Path::new(SOCKET).exists()))?;

        let archive = directory.join("image.tar");
        image::write(&archive, IMAGE, program, &["pause"])?;
        let ctr = find("CTR_BIN", "ctr")?;
        run(Command::new(ctr)
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(&archive))?;
        fs::remove_file(archive)?;
        Ok(Self {
            client: Client::connect(Path::new(SOCKET))?,
            log_directory: directory.display().to_string(),
            _process: process,
            _shims: shims,
            pods: Cgroup::new("pods")?,
        })
    }

    /// Starts a pod, without containers yet.
    pub fn run_pod(&self, spec: &Spec) -> Result<Pod> {
        let uid = format!("{}-{}", spec.namespace, spec.name);
        let cgroup_parent = format!("{}/kubepods/besteffort/pod{uid}", self.pods.path());
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: spec.name.clone(),
                uid,
                namespace: spec.namespace.clone(),
            }),
            log_directory: self.log_directory.clone(),
            port_mappings: spec
                .ports
                .iter()
                .map(|(host, container)| PortMapping {
                    container_port: (*container).into(),
                    host_port: (*host).into(),
                })
                .collect(),
            annotations: spec.annotations.clone().into_iter().collect(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent }),
        };
        let request = RunPodSandbox {
            config: Some(config.clone()),
        };
        let PodSandboxId { id } = self.run_sandbox(&request)?;
        let mut pod = Pod {
            id,
            addresses: Vec::new(),
            config,
        };
        let status: PodSandboxStatusResponse =
            self.client.call("PodSandboxStatus", pod.request())?;
        if let Some(network) = status.status.and_then(|status| status.network) {
            let more = network.additional_ips.into_iter().map(|ip| ip.ip);
            pod.addresses = [network.ip]
                .into_iter()
                .chain(more)
                .filter(|ip| !ip.is_empty())
                .map(|ip| ip.parse().with_context(|| ip))
                .collect::<Result<_>>()?;
        }
        Ok(pod)
    }

    fn run_sandbox(&self, request: &RunPodSandbox) -> Result<PodSandboxId> {
        const ATTEMPTS: usize = 5;
        let attempt = || self.client.call("RunPodSandbox", request.clone());
        // On a busy host, the bridge plugin fails now and then; the kubelet tries again, too.
        let failed_by_chance = |outcome: &Result<_>| {
            let failed = outcome.as_ref().err();
            failed.is_some_and(|error| format!("{error:#}").contains(r#"plugin type="bridge""#))
        };
        for _ in 1..ATTEMPTS {
            let outcome = attempt();
            if !failed_by_chance(&outcome) {
                return outcome;
            }
        }
        attempt()
    }

    /// Starts a container that runs the program with these arguments; its id. It has the capabilities
    /// of a pod that administers its network.
    pub fn run_container(&self, pod: &Pod, name: &str, arguments: &[&str]) -> Result<String> {
        let request = CreateContainer {
            pod_sandbox_id: pod.id.clone(),
            config: Some(ContainerConfig {
                metadata: Some(ContainerMetadata { name: name.into() }),
                image: Some(ImageSpec {
                    image: IMAGE.into(),
                }),
                args: arguments.iter().map(|word| (*word).into()).collect(),
                log_path: format!("{}-{name}.log", pod.id),
                linux: Some(LinuxContainerConfig {
                    security_context: Some(LinuxContainerSecurityContext {
                        capabilities: Some(Capability {
                            add_capabilities: vec!["NET_ADMIN".into()],
                        }),
                    }),
                }),
            }),
            sandbox_config: Some(pod.config.clone()),
        };
        let container: ContainerId = self.client.call("CreateContainer", request)?;
        let Empty {} = self.client.call("StartContainer", container.clone())?;
        Ok(container.id)
    }

    /// Stops a pod with its containers, and removes it.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        let Empty {} = self.client.call("StopPodSandbox", pod.request())?;
        let Empty {} = self.client.call("RemovePodSandbox", pod.request())?;
        Ok(())
    }

    /// What libcni remembers of a pod.
    pub fn cached(&self, pod: &Pod) -> Result<Value> {
        let file = format!("{CACHE}/{NETWORK}-{}-{IFNAME}", pod.id);
        let text = fs::read_to_string(&file).context(file)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Fails unless all that pods left is gone: bundles, network namespaces, what libcni remembers.
    pub fn assert_nothing_left(&self) -> Result<()> {
        for (directory, prefix) in [
            ("/run/containerd/io.containerd.runtime.v2.task/k8s.io", ""),
            ("/run/netns", "cni-"),
            (CACHE, ""),
        ] {
            let left: Vec<_> = fs::read_dir(directory)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name())
                .filter(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
                .collect();
            ensure!(left.is_empty(), "{directory} still has {left:?}");
        }
        Ok(())
    }
}

impl Pod {
    fn request(&self) -> PodSandboxId {
        PodSandboxId {
            id: self.id.clone(),
        }
    }
}
