//! What a container's OCI bundle tells of it: `config.json`, as containerd's CRI and CRI-O annotate it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Workload, own};

/// What is known of a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bundle {
    /// Whose it is, if it is Kubernetes'. A sandbox is no container of the pod's.
    pub(super) workload: Option<Workload>,
    /// Path of the network namespace that a sandbox was given; none of other containers, and of those in
    /// the node's namespace.
    pub(super) netns: Option<PathBuf>,
    /// Path of the container's cgroup, below the root of the hierarchy.
    pub(super) cgroup: Option<String>,
    /// Annotations of the pod, those of truepeer.
    pub(super) annotations: BTreeMap<String, String>,
}

/// The part of the OCI runtime specification's `config.json` that is read.
#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
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

/// By which annotations a runtime tells what.
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
/// Where CRI-O has the pod's annotations, as JSON.
const CRIO_ANNOTATIONS: &str = "io.kubernetes.cri-o.Annotations";

impl Bundle {
    /// Reads `config.json`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        let spec = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        Ok(Self::new(spec))
    }

    fn new(Spec { annotations, linux }: Spec) -> Self {
        let told = |keys: &Keys| annotations.contains_key(keys.kind);
        let keys = [CONTAINERD, CRIO].into_iter().find(told);
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
        // A container joins its sandbox's by a process id, which another process may have by now.
        let cgroup = linux.cgroups_path.as_deref().map(cgroup);
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
        all.extend::<BTreeMap<_, _>>(inner);
        Self {
            workload,
            netns: netns.map(here),
            cgroup,
            annotations: own(all),
        }
    }
}

/// Where runc puts a container: systemd's driver writes `SLICE:PREFIX:NAME`, and a slice `a-b.slice` lies in
/// `a.slice`.
fn cgroup(path: &str) -> String {
    let [slice, prefix, name] = path.split(':').collect::<Vec<_>>()[..] else {
        return path.to_owned();
    };
    let dashes = slice.match_indices('-').map(|(at, _)| &slice[..at]);
    let parents: String = dashes.map(|parent| format!("/{parent}.slice")).collect();
    format!("{parents}/{slice}/{prefix}-{name}.scope")
}

/// The path without the link that `/var/run` is, which an agent in a container may lack.
fn here(path: PathBuf) -> PathBuf {
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
