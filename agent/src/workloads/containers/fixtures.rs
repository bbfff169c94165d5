//! A runtime's files for tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::Containers;
use crate::workloads::pods::Pods;

/// Ids of the sandbox and the container.
pub(crate) const SANDBOX: &str = "f3e778c4";
pub(crate) const CONTAINER: &str = "3c8d64ea";

/// containerd's state directory with a pod that has one container. The pod is in this process's network
/// namespace.
fn containerd() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    add(directory.path(), SANDBOX, "sandbox");
    add(directory.path(), CONTAINER, "container");
    directory
}

/// The bundle of the container with this id.
pub(super) fn bundle(directory: &Path, id: &str) -> PathBuf {
    directory
        .join("io.containerd.runtime.v2.task/k8s.io")
        .join(id)
}

/// Writes the bundle of a container of this kind.
pub(super) fn add(directory: &Path, id: &str, kind: &str) {
    let netns = directory.join("netns");
    let _ = std::os::unix::fs::symlink("/proc/self/ns/net", &netns);
    let config = json!({
        "annotations": {
            "io.kubernetes.cri.container-type": kind,
            "io.kubernetes.cri.container-name": "nginx",
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "shop",
            "truepeer.io/unwrap": "8000",
        },
        "linux": {"namespaces": [{"type": "network", "path": netns}]},
    });
    let bundle = bundle(directory, id);
    fs::create_dir_all(&bundle).unwrap();
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
}

/// A pod in this process's network namespace, with a container.
pub(crate) fn web() -> (tempfile::TempDir, Containers) {
    let directory = containerd();
    let containers = Containers::new(&[directory.path().to_owned()], Pods::default());
    (directory, containers)
}
