//! The containers of the DaemonSet, which runc runs as a kubelet would have them run: with the manifest's
//! arguments, capabilities and mounts, and the profile that runtimes have for system calls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cluster::manifests::piped;
use crate::host::netns::Netns;
use crate::host::process::{Process, unique};
use crate::wait::Limit;

/// The profile of CRI-O and Podman: `RuntimeDefault`.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";
/// What containerd hides and protects in a container that is not privileged.
const MASKED: [&str; 6] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The image as tools name it: its layout and its tag.
pub fn image() -> Result<String> {
    let layout = env::var("TRUEPEER_IMAGE")
        .context("TRUEPEER_IMAGE is not set: run `cargo xtask test`, which makes the image")?;
    Ok(format!("{layout}:{}", env!("CARGO_PKG_VERSION")))
}

/// Unpacks the image into `directory`; returns the bundle, with a root file system and a configuration.
pub fn unpack(directory: &Path) -> Result<PathBuf> {
    let bundle = directory.join("bundle");
    let mut command = Command::new("umoci");
    command.args(["unpack", "--image", &image()?]).arg(&bundle);
    piped(&mut command, "")?;
    Ok(bundle)
}

/// What a pod has of its node.
pub struct Node<'a> {
    /// Its own network namespace.
    pub netns: &'a Netns,
    /// Where the volumes of the manifest really are, by their names.
    pub volumes: BTreeMap<&'a str, PathBuf>,
}

/// A running container, stopped on drop.
pub struct Container {
    name: String,
    /// The directory in which runc keeps its state.
    root: PathBuf,
    process: Process,
}

impl Container {
    /// Starts the container of this name that the DaemonSet describes.
    pub fn start(
        directory: &Path,
        bundle: &Path,
        manifest: &Value,
        name: &str,
        node: &Node,
    ) -> Result<Self> {
        let pod = &manifest["spec"]["template"]["spec"];
        let container = ["containers", "initContainers"]
            .iter()
            .filter_map(|kind| pod[kind].as_array())
            .flatten()
            .find(|container| container["name"] == name)
            .with_context(|| format!("no container {name} in {pod}"))?;
        let image: Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
        let mut specification = specification(image, pod, container, node)?;
        // The image is shared, and a bundle of its own says what is this container's.
        specification["root"]["path"] = json!(bundle.join("rootfs"));
        let name = unique(name);
        let bundle = directory.join(&name);
        fs::create_dir(&bundle)?;
        fs::write(bundle.join("config.json"), specification.to_string())?;
        let root = directory.join("runc");
        let mut command = Command::new("runc");
        command.arg("--root").arg(&root);
        command.args(["run", "--bundle"]).arg(&bundle).arg(&name);
        Ok(Self {
            process: Process::start(&name, command, directory)?,
            name,
            root,
        })
    }

    /// Waits until `ready`.
    pub fn wait_until_ready(&mut self, ready: impl FnMut() -> Result<bool>) -> Result<()> {
        self.process.wait_until_ready(ready)
    }

    /// Waits until a command in the container succeeds, as a kubelet's probes do.
    pub fn wait_until_succeeds(&mut self, command: &[&str]) -> Result<()> {
        let (name, root) = (&self.name, &self.root);
        self.process
            .wait_until_ready(|| Ok(exec(root, name, command).is_ok()))
    }

    /// What a command in the container prints, as `kubectl exec` would show it.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        exec(&self.root, &self.name, command)
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        self.process.log()
    }

    /// Asks it to stop, as a kubelet does first.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)
    }

    /// Its exit status. A kubelet kills what has not ended within `patience`.
    pub fn ended(&mut self, patience: Limit) -> Result<ExitStatus> {
        self.process.wait(patience)
    }

    /// Stops it as a kubelet does.
    pub fn stop(mut self, patience: Limit) -> Result<()> {
        self.terminate()?;
        self.ended(patience).map(drop)
    }
}

fn exec(root: &Path, container: &str, command: &[&str]) -> Result<String> {
    let mut runc = Command::new("runc");
    runc.arg("--root").arg(root).args(["exec", container]);
    piped(runc.args(command), "")
}

/// The runtime's specification of a container: that of the image, and what the manifest says.
fn specification(mut spec: Value, pod: &Value, container: &Value, node: &Node) -> Result<Value> {
    ensure!(
        pod["hostPID"] == true && pod["hostNetwork"] == true,
        "not the node's namespaces"
    );
    ensure!(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault");
    let security = &container["securityContext"];
    ensure!(security["capabilities"]["drop"] == json!(["ALL"]) && security["runAsUser"] == 0);
    let added = security["capabilities"]["add"].as_array();
    let capabilities: Vec<_> = added
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|name| format!("CAP_{name}"))
        .collect();

    let entrypoint = spec["process"]["args"][0].take();
    let arguments = container["args"].as_array().context("no arguments")?;
    let process = &mut spec["process"];
    process["args"] = [&[entrypoint], &arguments[..]].concat().into();
    process["terminal"] = json!(false);
    process["noNewPrivileges"] = json!(security["allowPrivilegeEscalation"] == false);
    process["capabilities"] = json!({
        "bounding": capabilities,
        "effective": capabilities,
        "permitted": capabilities,
    });
    spec["root"]["readonly"] = security["readOnlyRootFilesystem"].clone();

    let mounts = mounts(pod, container, node)?;
    let own = spec["mounts"].as_array().context("no mounts")?;
    let is_free = |mount: &&Value| {
        mounts
            .iter()
            .all(|m| m["destination"] != mount["destination"])
    };
    let all = [
        &own.iter().filter(is_free).cloned().collect::<Vec<_>>()[..],
        &mounts,
    ]
    .concat();
    spec["mounts"] = all.into();
    spec["linux"] = json!({
        "namespaces": [
            {"type": "ipc"},
            {"type": "mount"},
            {"type": "uts"},
            {"type": "network", "path": node.netns.path()},
        ],
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
        "rootfsPropagation": "rslave",
        "seccomp": seccomp(&capabilities)?,
    });
    Ok(spec)
}

/// The manifest's mounts, bound to the node's directories.
fn mounts(pod: &Value, container: &Value, node: &Node) -> Result<Vec<Value>> {
    let mounts = container["volumeMounts"].as_array().context("no mounts")?;
    mounts
        .iter()
        .map(|mount| {
            let name = mount["name"].as_str().context("no name")?;
            let volumes = pod["volumes"].as_array().context("no volumes")?;
            if !volumes.iter().any(|volume| volume["name"] == name) {
                bail!("no volume {name}");
            }
            let source = node.volumes.get(name);
            let access = if mount["readOnly"] == true {
                "ro"
            } else {
                "rw"
            };
            let propagation = match mount["mountPropagation"].as_str() {
                Some("HostToContainer") => "rslave",
                None => "rprivate",
                Some(other) => bail!("{name}: {other}"),
            };
            Ok(json!({
                "type": "bind",
                "source": source.with_context(|| format!("the node has no {name}"))?,
                "destination": mount["mountPath"],
                "options": ["rbind", access, propagation],
            }))
        })
        .collect()
}

/// The profile as runc takes it, for a container with these capabilities on this architecture.
fn seccomp(capabilities: &[String]) -> Result<Value> {
    let profile: Value = serde_json::from_slice(&fs::read(SECCOMP).context(SECCOMP)?)?;
    let names = |value: &Value| -> Vec<String> {
        let names = value.as_array().into_iter().flatten();
        names
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    };
    let architecture = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no profile for {other}"),
    };
    let here = |rule: &&Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let has = |name: &String| capabilities.contains(name);
        let architectures = names(&includes["arches"]);
        names(&includes["caps"]).iter().all(has)
            && !names(&excludes["caps"]).iter().any(has)
            && (architectures.is_empty() || architectures.iter().any(|name| name == architecture))
            && !names(&excludes["arches"])
                .iter()
                .any(|name| name == architecture)
    };
    let rules = profile["syscalls"].as_array().context("no rules")?;
    let rules: Vec<_> = rules
        .iter()
        .filter(here)
        .map(|rule| {
            let mut kept = json!({"names": rule["names"], "action": rule["action"]});
            for key in ["args", "errnoRet"] {
                if !rule[key].is_null() {
                    kept[key] = rule[key].clone();
                }
            }
            kept
        })
        .collect();
    Ok(json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [format!("SCMP_ARCH_{}", env::consts::ARCH.to_uppercase())],
        "syscalls": rules,
    }))
}
