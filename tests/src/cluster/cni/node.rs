//! A node, and the pods on it.

use anyhow::Result;
use serde_json::{Map, Value};

use crate::host::netns::Netns;
use crate::topology::Sidecar;

/// The pod's interface.
pub const IFNAME: &str = "eth0";

/// A client and a node, on which the pods of a [`Runtime`] are.
pub struct Node(Sidecar);

impl Node {
    /// Lays it out.
    pub fn new() -> Result<Self> {
        let sidecar = Sidecar::new()?;
        sidecar.client.ip("route add 10.88.0.0/16 via 10.77.0.2
             -6 route add fd88::/64 via fd77::2")?;
        let node = &sidecar.pod;
        node.set_sysctl("net/ipv4/ip_forward", "1")?;
        node.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        Ok(Self(sidecar))
    }

    /// Where connections come from.
    pub fn client(&self) -> &Netns {
        &self.0.client
    }

    /// Where plugins run.
    pub fn netns(&self) -> &Netns {
        &self.0.pod
    }
}

/// A pod: its network namespace, and what Kubernetes knows of it.
pub struct Pod {
    /// The id of its container.
    pub id: String,
    /// Its network namespace, empty until it is added.
    pub netns: Netns,
    /// Its annotations.
    pub annotations: Map<String, Value>,
}

impl Pod {
    /// A pod with these annotations.
    pub fn new(id: &str, annotations: &[(&str, &str)]) -> Result<Self> {
        Ok(Self {
            id: id.into(),
            netns: Netns::new(id)?,
            annotations: annotations
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
        })
    }

    /// `CNI_ARGS` as Kubernetes' runtimes set it.
    pub(super) fn arguments(&self) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=tests;K8S_POD_NAME={}",
            self.id
        )
    }
}
