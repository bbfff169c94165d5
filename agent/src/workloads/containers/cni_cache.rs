//! libcni's cache: a file in `results` for each interface of a container that it connected.

use std::{collections::HashMap, fs, path::PathBuf};

use serde::Deserialize;

use crate::workloads::{
    annotations::{Annotations, for_truepeer},
    workload::Workload,
};

/// What the cache says of a container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cached {
    /// Name of the runtime's network.
    pub(super) network: String,
    /// The interface inside the pod.
    pub(super) interface: String,
    pub(super) workload: Option<Workload>,
    /// The pod's annotations for truepeer.
    pub(super) annotations: Annotations,
}

/// What holds where libcni has no cache.
impl Default for Cached {
    fn default() -> Self {
        Self {
            network: String::new(),
            // The name that kubelets give it (`network.DefaultInterfaceName`).
            interface: "eth0".into(),
            workload: None,
            annotations: Annotations::new(),
        }
    }
}

/// A file of kind `cniCacheV1`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    container_id: String,
    network_name: String,
    if_name: String,
    /// `CNI_ARGS`.
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    capability_args: Option<Capabilities>,
}

#[derive(Deserialize)]
struct Capabilities {
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    annotations: Option<Annotations>,
}

/// The loopback interface, which runtimes have CNI set up too.
const LOOPBACK: &str = "lo";

/// What the caches in these directories say of the container with this id.
pub(super) fn read(directories: &[PathBuf], id: &str) -> Option<Cached> {
    let files = directories
        .iter()
        .filter_map(|directory| fs::read_dir(directory.join("results")).ok())
        .flatten()
        .flatten();
    // NETWORK-ID-INTERFACE
    let is_its_own = |name: &str| name.contains(&format!("-{id}-"));
    files
        .filter(|file| file.file_name().to_str().is_some_and(is_its_own))
        .filter_map(|file| serde_json::from_slice::<File>(&fs::read(file.path()).ok()?).ok())
        .find(|file| file.container_id == id && file.if_name != LOOPBACK)
        .map(Cached::from)
}

impl From<File> for Cached {
    fn from(file: File) -> Self {
        let mut args: HashMap<_, _> = file.cni_args.into_iter().flatten().collect();
        let annotations = file.capability_args.and_then(|known| known.annotations);
        Self {
            network: file.network_name,
            interface: file.if_name,
            workload: args
                .remove("K8S_POD_NAMESPACE")
                .zip(args.remove("K8S_POD_NAME"))
                .map(|(namespace, pod)| Workload {
                    namespace,
                    pod,
                    container: None,
                }),
            annotations: for_truepeer(annotations.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_annotations_are_found_by_the_id() {
        let directory = tempfile::tempdir().unwrap();
        let results = directory.path().join("results");
        fs::create_dir(&results).unwrap();
        let write = |name: &str, text: &str| fs::write(results.join(name), text).unwrap();
        write("node-f3e7-eth0", "half writ");
        write(
            "cni-loopback-f3e7-lo",
            r#"{"kind":"cniCacheV1","containerId":"f3e7","ifName":"lo","networkName":"cni-loopback"}"#,
        );
        write(
            "node-f3e7-eth1",
            r#"{"kind":"cniCacheV1","containerId":"f3e7","ifName":"eth1","networkName":"node",
                "cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAME","web-0"],["K8S_POD_NAMESPACE","shop"]],
                "capabilityArgs":{"portMappings":[],
                "io.kubernetes.cri.pod-annotations":{"truepeer.io/unwrap":"8000","other":"x"}},"result":{}}"#,
        );
        write(
            "node-aaaa-eth0",
            r#"{"kind":"cniCacheV1","containerId":"aaaa","ifName":"eth0","networkName":"node","cniArgs":null,
                "capabilityArgs":{"io.kubernetes.cri.pod-annotations":null}}"#,
        );
        let directories = [directory.path().to_owned(), "/nonexistent".into()];
        let cached = read(&directories, "f3e7").unwrap();
        assert_eq!((&*cached.network, &*cached.interface), ("node", "eth1"));
        assert_eq!(cached.workload.unwrap().to_string(), "shop/web-0");
        let expected = [("truepeer.io/unwrap".into(), "8000".into())];
        assert_eq!(cached.annotations, expected.into());
        assert_eq!(read(&directories, "aaaa").unwrap().workload, None);
        assert_eq!(read(&directories, "f3e"), None);
    }
}
