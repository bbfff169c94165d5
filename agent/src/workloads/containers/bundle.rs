//! The configuration in a container's OCI bundle (`config.json`), with the annotations of containerd's CRI and CRI-O.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::workloads::{
    annotations::{Annotations, for_truepeer},
    workload::Workload,
};

/// What the bundle says of a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bundle {
    /// The container or, for a sandbox, the pod; `None` if Kubernetes does not run it.
    pub(super) workload: Option<Workload>,
    /// Path of a sandbox's network namespace; `None` for other containers, and in the node's namespace.
    pub(super) netns: Option<PathBuf>,
    /// Path of the container's cgroup, below the root of the hierarchy.
    pub(super) cgroup: Option<String>,
    /// The pod's annotations for truepeer.
    pub(super) annotations: Annotations,
}

/// The part of `config.json` (OCI runtime specification) that truepeer reads.
#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    annotations: Annotations,
    #[serde(default)]
    linux: Linux,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
    cgroups_path: Option<String>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<PathBuf>,
}

/// The keys of a runtime's annotations.
struct Keys {
    kind: &'static str,
    namespace: &'static str,
    pod: &'static str,
    container: &'static str,
}

const CONTAINERD: Keys = Keys {
    kind: "io.kubernetes.cri.container-type",
    namespace: "io.kubernetes.cri.sandbox-namespace",
    pod: "io.kubernetes.cri.sandbox-name",
    container: "io.kubernetes.cri.container-name",
};
const CRIO: Keys = Keys {
    kind: "io.kubernetes.cri-o.ContainerType",
    namespace: "io.kubernetes.pod.namespace",
    pod: "io.kubernetes.pod.name",
    container: "io.kubernetes.container.name",
};
/// The annotation in which CRI-O keeps all of the pod's, as JSON.
const CRIO_ANNOTATIONS: &str = "io.kubernetes.cri-o.Annotations";

impl Bundle {
    /// Reads `config.json`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        let spec = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        Ok(Self::new(spec))
    }

    fn new(Spec { annotations, linux }: Spec) -> Self {
        let is_there = |keys: &Keys| annotations.contains_key(keys.kind);
        let keys = [CONTAINERD, CRIO].into_iter().find(is_there);
        let get = |key: &str| annotations.get(key).cloned();
        let is_container = keys
            .as_ref()
            .is_some_and(|keys| annotations[keys.kind] == "container");
        let workload = keys.and_then(|keys| {
            Some(Workload {
                namespace: get(keys.namespace)?,
                pod: get(keys.pod)?,
                container: is_container.then(|| get(keys.container)).flatten(),
            })
        });
        let cgroup = linux.cgroups_path.as_deref().map(cgroup);
        // A container joins its sandbox's namespace by a process id, which another process may have by now.
        let netns = linux
            .namespaces
            .into_iter()
            .find(|namespace| namespace.kind == "network")
            .and_then(|namespace| namespace.path)
            .filter(|path| !is_container && !path.starts_with("/proc"));
        let inner = get(CRIO_ANNOTATIONS)
            .and_then(|json| serde_json::from_str(&json).ok())
            .unwrap_or_default();
        let mut all = annotations;
        all.extend::<Annotations>(inner);
        Self {
            workload,
            netns: netns.map(without_link),
            cgroup,
            annotations: for_truepeer(all),
        }
    }
}

/// The cgroup in which runc puts a container. The driver for systemd writes `SLICE:PREFIX:NAME`, and a slice
/// `a-b.slice` lies in `a.slice`.
fn cgroup(path: &str) -> String {
    let [slice, prefix, name] = path.split(':').collect::<Vec<_>>()[..] else {
        return path.to_owned();
    };
    let dashes = slice.match_indices('-').map(|(at, _)| &slice[..at]);
    let parents: String = dashes.map(|parent| format!("/{parent}.slice")).collect();
    format!("{parents}/{slice}/{prefix}-{name}.scope")
}

/// The path with `/run` instead of the link `/var/run`, which an agent in a container may lack.
fn without_link(path: PathBuf) -> PathBuf {
    match path.strip_prefix("/var/run") {
        Ok(below) => Path::new("/run").join(below),
        Err(_) => path,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn bundle(annotations: Value, netns: &str) -> Bundle {
        let spec = json!({
            "ociVersion": "1.0.2",
            "annotations": annotations,
            "linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": netns}]},
        });
        Bundle::new(serde_json::from_value(spec).unwrap())
    }

    fn web(container: Option<&str>) -> Option<Workload> {
        Some(Workload {
            namespace: "shop".into(),
            pod: "web-0".into(),
            container: container.map(Into::into),
        })
    }

    #[test]
    fn containerd_tells_pods_and_containers() {
        let mut annotations = json!({
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": "f3e7",
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "shop",
            "truepeer.io/enabled": "false",
        });
        let sandbox = bundle(annotations.clone(), "/var/run/netns/cni-1");
        assert_eq!(sandbox.workload, web(None));
        assert_eq!(sandbox.netns, Some("/run/netns/cni-1".into()));
        let expected = [("truepeer.io/enabled".into(), "false".into())];
        assert_eq!(sandbox.annotations, expected.into());

        annotations["io.kubernetes.cri.container-type"] = "container".into();
        annotations["io.kubernetes.cri.container-name"] = "nginx".into();
        let container = bundle(annotations, "/proc/25948/ns/net");
        assert_eq!(container.workload, web(Some("nginx")));
        assert_eq!(container.netns, None);
    }

    #[test]
    fn crio_tells_them_too() {
        let annotations = json!({
            "io.kubernetes.cri-o.ContainerType": "sandbox",
            "io.kubernetes.container.name": "POD",
            "io.kubernetes.pod.name": "web-0",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.cri-o.Annotations": r#"{"truepeer.io/unwrap":"8000","other":"x"}"#,
        });
        let sandbox = bundle(annotations, "/var/run/netns/2f1c");
        assert_eq!(sandbox.workload, web(None));
        let expected = [("truepeer.io/unwrap".into(), "8000".into())];
        assert_eq!(sandbox.annotations, expected.into());
    }

    #[test]
    fn cgroups_are_where_either_driver_puts_them() {
        assert_eq!(
            cgroup("/kubepods/besteffort/pod1/f3e7"),
            "/kubepods/besteffort/pod1/f3e7"
        );
        assert_eq!(
            cgroup("kubepods-besteffort-pod1_2.slice:cri-containerd:f3e7"),
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice/\
             cri-containerd-f3e7.scope"
        );
        assert_eq!(
            cgroup("system.slice:runc:f3e7"),
            "/system.slice/runc-f3e7.scope"
        );
    }

    #[test]
    fn what_is_not_kubernetes_has_no_name() {
        let docker = bundle(json!({}), "/var/run/docker/netns/1");
        assert_eq!(docker.workload, None);
        assert_eq!(docker.netns, Some("/run/docker/netns/1".into()));
        let bare: Spec = serde_json::from_str("{}").unwrap();
        assert_eq!(Bundle::new(bare), Bundle::default());
    }
}
