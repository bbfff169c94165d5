//! Pods and containers by name.

use std::{fmt, path::PathBuf, sync::Arc};

use prometheus_client::encoding::EncodeLabelSet;
use serde::{Deserialize, Serialize};

use super::annotations::Annotations;

/// A pod's name, as Kubernetes gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod or one of its containers, by the names that Kubernetes gives them.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, EncodeLabelSet,
)]
pub struct Workload {
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name; `None` where only the pod is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl From<&PodName> for Workload {
    fn from(pod: &PodName) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: None,
        }
    }
}

/// `shop/web-0/nginx`, or `shop/web-0`.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.pod)?;
        match &self.container {
            Some(container) => write!(f, "/{container}"),
            None => Ok(()),
        }
    }
}

/// The container that holds the namespaces of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id, which the CNI calls the container id of the pod.
    pub id: String,
    /// The pod's interface.
    pub interface: String,
    /// Name of the runtime's network; empty where libcni names none.
    pub network: String,
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// The pod; `None` if Kubernetes does not run it.
    pub workload: Option<Arc<Workload>>,
    /// The pod's annotations for truepeer, as far as the runtime or libcni recorded them.
    pub annotations: Annotations,
}
