//! Two nodes of a cluster, each with a pod, and a client beside them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Result;

use crate::agent::{Agent, Carry, CarryNode, Config};
use crate::cluster::kube_proxy::{self, Addresses, Mode, Service};
use crate::host::netns::Netns;
use crate::topology::{Family, client};

/// The Service whose endpoint is a [`crate::servers::report::Report`].
pub const REPORT: Service = Service {
    name: "report",
    node_port: 30080,
    port: 80,
    target: 8080,
};
/// The Service whose endpoint is nginx.
pub const WEB: Service = Service {
    name: "web",
    node_port: 30081,
    port: 81,
    target: 8081,
};
/// Prefixes of all nodes, for a rule that says `toa`.
pub const NODES: [&str; 2] = ["10.80.0.8/29", "fd80::10/124"];

/// A node, and its pod behind it.
pub struct Node {
    /// Its number: 1 or 2.
    number: u8,
    /// The node's own namespace.
    pub netns: Netns,
    /// The pod's, whose interface is `eth0`.
    pub pod: Netns,
}

/// The nodes, a client, and the network between them.
pub struct Cluster {
    /// Where connections come from.
    pub client: Netns,
    /// The nodes.
    pub nodes: [Node; 2],
    network: Netns,
}

impl Node {
    /// The interface by which clients and other nodes come in.
    pub const UPLINK: &str = "eth0";
    /// The interface by which the pod comes in: a port of the bridge that the reference CNI plugin makes.
    pub const POD: &str = "pod0";

    fn new(number: u8) -> Result<Self> {
        let node = Self {
            number,
            netns: Netns::new(&format!("node{number}"))?,
            pod: Netns::new(&format!("pod{number}"))?,
        };
        node.netns.ip("link add cni0 type bridge
             link set cni0 up")?;
        node.netns.set_sysctl("net/ipv4/ip_forward", "1")?;
        node.netns.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let n = number;
        node.netns.ip(&format!(
            "addr add 10.81.{n}.1/24 dev cni0
             addr add fd81:{n}::1/64 dev cni0"
        ))?;
        node.connect(Self::POD, &node.pod, 2)?;
        Ok(node)
    }

    /// Its address on the network.
    pub fn address(&self, family: Family) -> IpAddr {
        let n = self.number;
        family
            .pick(format!("10.80.0.1{n}"), format!("fd80::1{n}"))
            .parse()
            .expect("an address")
    }

    /// Its pod's address.
    pub fn pod_address(&self, family: Family) -> IpAddr {
        self.nth_address(2, family)
    }

    /// An address of a pod of its own.
    pub fn nth_address(&self, host: u8, family: Family) -> IpAddr {
        let n = self.number;
        family
            .pick(format!("10.81.{n}.{host}"), format!("fd81:{n}::{host}"))
            .parse()
            .expect("an address")
    }

    /// Connects another pod, with these addresses.
    pub fn another_pod(&self, host: u8) -> Result<Netns> {
        let pod = Netns::new(&format!("pod{}-{host}", self.number))?;
        self.connect(&format!("pod{host}"), &pod, host)?;
        Ok(pod)
    }

    fn connect(&self, port: &str, pod: &Netns, host: u8) -> Result<()> {
        self.netns.connect(port, pod, "eth0")?;
        // Where packets on a bridge pass iptables, too, what a pod sends to itself goes back by the port by which it
        // came (the plugin's `hairpinMode`).
        self.netns.ip(&format!(
            "link set {port} master cni0
             link set {port} type bridge_slave hairpin on"
        ))?;
        let [own, gateways] =
            [host, 1].map(|host| Family::ALL.map(|it| self.nth_address(host, it)));
        pod.ip(&format!(
            "addr add {}/24 dev eth0
             addr add {}/64 dev eth0
             route add default via {}
             -6 route add default via {}",
            own[0], own[1], gateways[0], gateways[1]
        ))
    }

    /// Its address towards its pod.
    pub fn gateway(&self, family: Family) -> IpAddr {
        self.nth_address(1, family)
    }

    /// Where clients find a Service.
    pub fn targets(&self, service: Service) -> [SocketAddr; 2] {
        Family::ALL.map(|family| (self.address(family), service.node_port).into())
    }

    /// SYNs to the Services by this interface are given TOA: from outside [`Self::UPLINK`], from the pod
    /// [`Self::POD`].
    pub fn carries(&self, interface: &str) -> CarryNode {
        CarryNode::new(&self.netns, interface, &["30000-32767", "80-81"])
    }
}

/// An agent that gives TOA to what comes in by the uplinks of these nodes.
pub fn agent(directory: &Path, nodes: &[&Node], change: impl FnOnce(&mut Config)) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.agent.drain = Some(1);
    config.carry = Some(Carry {
        node: nodes.iter().map(|n| n.carries(Node::UPLINK)).collect(),
        ..Carry::default()
    });
    change(&mut config);
    Agent::start(directory, config)
}

impl Cluster {
    /// Lays it out. The endpoint of both Services is the pod of this node (0 or 1).
    pub fn new(directory: &Path, mode: Mode, endpoint: usize) -> Result<Self> {
        let network = Netns::new("network")?;
        network.ip("link add bridge type bridge
             link set bridge up")?;
        let cluster = Self {
            client: client()?,
            nodes: [Node::new(1)?, Node::new(2)?],
            network,
        };
        cluster.plug_in(&cluster.client, "client")?;
        cluster.client.ip("addr add 10.80.0.1/24 dev eth0
             addr add fd80::1/64 dev eth0")?;
        for (node, other) in cluster.nodes.iter().zip(cluster.nodes.iter().rev()) {
            cluster.plug_in(&node.netns, &format!("node{}", node.number))?;
            let [v4, v6] = Family::ALL.map(|family| node.address(family));
            let [other_v4, other_v6] = Family::ALL.map(|family| other.address(family));
            let n = other.number;
            node.netns.ip(&format!(
                "addr add {v4}/24 dev eth0
                 addr add {v6}/64 dev eth0
                 route add default via 10.80.0.1
                 -6 route add default via fd80::1
                 route add 10.81.{n}.0/24 via {other_v4}
                 -6 route add fd81:{n}::/64 via {other_v6}"
            ))?;
            let endpoint = &cluster.nodes[endpoint];
            let addresses = |family: Family| Addresses {
                endpoint: endpoint.pod_address(family),
                pods: family.pick("10.81.0.0/16", "fd81::/16"),
                node: node.address(family),
            };
            kube_proxy::install(&node.netns, directory, mode, &[REPORT, WEB], addresses)?;
        }
        Ok(cluster)
    }

    /// The client's address, by which nodes reach what they have no other route to.
    pub fn gateway(&self, family: Family) -> IpAddr {
        let address = family.pick("10.80.0.1", "fd80::1");
        address.parse().expect("an address")
    }

    /// Lets longer packets pass the network.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        for port in ["client", "node1", "node2", "bridge"] {
            self.network.ip(&format!("link set {port} mtu {mtu}"))?;
        }
        let ends = [&self.client, &self.nodes[0].netns, &self.nodes[1].netns];
        let widen = format!("link set {} mtu {mtu}", Node::UPLINK);
        ends.into_iter().try_for_each(|end| end.ip(&widen))
    }

    fn plug_in(&self, netns: &Netns, port: &str) -> Result<()> {
        self.network.connect(port, netns, Node::UPLINK)?;
        self.network.ip(&format!("link set {port} master bridge"))
    }
}
