//! A node with a container runtime, pods on it, and an agent where plugin and commands look for it.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use tests::agent::{Agent, Config};
use tests::cluster::cni::Node;
use tests::cluster::containerd::{Pod, Runtime, Spec, own_mounts};
use tests::host::scenario;
use tests::wait::eventually;

pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_playground");

pub(super) const APPLICATION: u16 = 8080;

pub(super) const PROXY: u16 = 15006;

/// The agent's default mark.
pub(super) const MARK: u32 = 0x539;

/// Where plugin and agent have the files of pods.
pub(super) const ATTACHMENTS: &str = "/var/lib/truepeer/pods";

/// A scenario with a runtime, whose pods are connected by the reference plugins and then by these.
pub(super) fn with_runtime(
    more: &[Value],
    body: impl FnOnce(&Path, &Node, &Runtime) -> Result<()> + Send,
) {
    scenario(|directory| {
        own_mounts(|| {
            let hosts = Node::new()?;
            let runtime = Runtime::start(directory, hosts.netns(), Path::new(PROGRAM), more)?;
            body(directory, &hosts, &runtime)?;
            runtime.assert_nothing_left()
        })
    });
}

/// A pod whose container `app` tells each client whom it sees.
pub(super) fn application(runtime: &Runtime, spec: &Spec) -> Result<Pod> {
    let pod = runtime.run_pod(spec)?;
    runtime.run_container(&pod, "app", &["report", &format!("[::]:{APPLICATION}")])?;
    Ok(pod)
}

/// Waits until each of the pod's addresses has a listener.
pub(super) fn wait_until_it_listens(hosts: &Node, pod: &Pod, port: u16) -> Result<()> {
    for address in &pod.addresses {
        let what = format!("{address} listens on {port}");
        eventually(&what, || {
            let connect = || std::net::TcpStream::connect((*address, port));
            Ok(hosts.netns().enter(connect).ok())
        })?;
    }
    Ok(())
}

/// The plugin's entry in a list of plugins.
pub(super) fn truepeer_plugin() -> Value {
    json!({"type": "truepeer", "capabilities": {"io.kubernetes.cri.pod-annotations": true}})
}

/// An agent where plugin and commands look for it by default.
pub(super) fn agent(directory: &Path) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.agent.socket = "/run/truepeer/truepeer.sock".into();
    config.agent.pods = ATTACHMENTS.into();
    Agent::start(directory, config)
}

/// A pod that asks for its sidecar.
pub(super) fn annotated(namespace: &str, name: &str) -> Spec {
    Spec::new(namespace, name)
        .annotate("truepeer.io/steer-ports", &APPLICATION.to_string())
        .annotate("truepeer.io/steer-to", &PROXY.to_string())
}

/// A pod with an application and a transparent proxy.
pub(super) fn sidecar(hosts: &Node, runtime: &Runtime, spec: &Spec) -> Result<Pod> {
    let pod = application(runtime, spec)?;
    let (listen, mark) = (format!("[::]:{PROXY}"), MARK.to_string());
    runtime.run_container(&pod, "proxy", &["sidecar", &listen, &mark])?;
    wait_until_it_listens(hosts, &pod, APPLICATION)?;
    wait_until_it_listens(hosts, &pod, PROXY)?;
    Ok(pod)
}
