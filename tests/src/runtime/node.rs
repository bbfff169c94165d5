//! A node with pods on a bridge, and a client on another host.

use std::net::IpAddr;

use anyhow::Result;
use serde_json::{Value, json};

use crate::netns::Netns;
use crate::topology::{Family, client};

/// Both hosts. Pods are connected by [`Node::network`].
pub struct Node {
    /// Where connections come from.
    pub client: Netns,
    /// Where the runtime runs.
    pub node: Netns,
}

impl Node {
    /// Lays them out.
    pub fn new() -> Result<Self> {
        let hosts = Self {
            client: client()?,
            node: Netns::new("node")?,
        };
        hosts.client.connect("eth0", &hosts.node, "eth0")?;
        hosts.client.ip("addr add 10.77.0.1/24 dev eth0
             addr add fd77::1/64 dev eth0
             route add 10.88.0.0/16 via 10.77.0.2
             -6 route add fd88::/64 via fd77::2")?;
        hosts.node.ip("addr add 10.77.0.2/24 dev eth0
             addr add fd77::2/64 dev eth0
             route add default via 10.77.0.1
             -6 route add default via fd77::1")?;
        Ok(hosts)
    }

    /// The node's address.
    pub fn address(family: Family) -> IpAddr {
        match family {
            Family::V4 => [10, 77, 0, 2].into(),
            Family::V6 => "fd77::2".parse().expect("an address"),
        }
    }

    /// A CNI configuration list: the reference plugins `bridge` and `portmap`, and then these.
    pub fn network(more: &[Value]) -> Value {
        let ranges = json!([[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd88::/64"}]]);
        let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
        let mut plugins = vec![
            json!({
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
            }),
            json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        ];
        plugins.extend_from_slice(more);
        json!({"cniVersion": "1.0.0", "name": "node", "plugins": plugins})
    }
}
