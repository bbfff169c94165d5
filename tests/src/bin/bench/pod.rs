//! A pod for one measurement: client, application, and what is between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use agent_common::Counter;
use anyhow::{Result, ensure};
use tempfile::TempDir;
use tests::agent::{Agent, Carry, CarryToa, Config, Relay, Steer, Trust, Unwrap};
use tests::cluster::kube_proxy::Mode;
use tests::cluster::nodes::{Cluster, Node, REPORT};
use tests::host::netns::Netns;
use tests::host::process::Process;
use tests::host::user::UID;
use tests::proxies::{Route, any_of_family, envoy, haproxy, nginx};
use tests::topology::istio::{self, INBOUND};
use tests::topology::{Family, Sidecar};

use crate::application::Application;
use crate::variant::Variant;

/// Connections of [`Work::Crowd`].
pub(crate) const CROWD: u16 = 100;

/// Where the application listens.
pub(crate) const PORT: u16 = 8080;

/// Envoy's mark: Istio's.
pub(crate) const MARK: u32 = 1337;

/// This program's user: the client of [`Variant::Bind`] is a trusted proxy.
pub(crate) const ROOT: u32 = 0;

/// What is around a pod.
pub(crate) enum Topology {
    /// A client.
    Sidecar(Sidecar),
    /// Nodes with kube-proxy's rules, and a client. The pod is the first node's.
    Cluster(Cluster),
}

impl Topology {
    pub(crate) fn new(variant: Variant, directory: &TempDir) -> Result<Self> {
        if matches!(variant, Variant::Node | Variant::NodeToa) {
            let cluster = Cluster::new(directory.path(), Mode::Iptables, 0)?;
            return Ok(Self::Cluster(cluster));
        }
        let sidecar = Sidecar::new()?;
        sidecar.pod.ip("route add local 10.77.1.0/24 dev lo
             -6 route add local fd77:1::/112 dev lo")?;
        sidecar
            .client
            .ip("route add 10.77.1.0/24 via 10.77.0.2 src 10.77.0.1
             -6 route add fd77:1::/112 via fd77::2 src fd77::1")?;
        Ok(Self::Sidecar(sidecar))
    }

    pub(crate) fn client(&self) -> &Netns {
        match self {
            Self::Sidecar(sidecar) => &sidecar.client,
            Self::Cluster(cluster) => &cluster.client,
        }
    }

    pub(crate) fn pod(&self) -> &Netns {
        match self {
            Self::Sidecar(sidecar) => &sidecar.pod,
            Self::Cluster(cluster) => &cluster.nodes[0].pod,
        }
    }
}

/// The pod, removed on drop: first what steers, then the rest.
pub(crate) struct Pod {
    agent: Option<Agent>,
    proxy: Option<Process>,
    _application: Application,
    topology: Topology,
    directory: TempDir,
    /// What is between client and application.
    pub(crate) variant: Variant,
    /// How the client connects.
    pub(crate) family: Family,
}

impl Pod {
    pub(crate) fn new(variant: Variant, family: Family, concurrency: u16) -> Result<Self> {
        let directory = directory()?;
        let topology = Topology::new(variant, &directory)?;
        let pod = topology.pod();
        let application = Application::start(pod, PORT, concurrency.max(CROWD))?;
        let proxy = start_proxy(variant, &directory, pod, family)?;
        if variant == Variant::Iptables {
            istio::tproxy(pod, directory.path())?;
        }
        let agent = config(variant, &directory, &topology, family)?
            .map(|config| Agent::start(directory.path(), config))
            .transpose()?;
        Ok(Self {
            agent,
            proxy,
            _application: application,
            topology,
            directory,
            variant,
            family,
        })
    }

    /// The client's namespace.
    pub(crate) fn client(&self) -> &Netns {
        self.topology.client()
    }

    /// The namespace of the application, and of what is before it.
    pub(crate) fn server(&self) -> &Netns {
        self.topology.pod()
    }

    /// The n-th of 254 addresses at which a client finds the application: where truepeer makes a bind an
    /// ordinary one, connections come from one address only, and one destination would use up its ports.
    /// On a node, there is one.
    pub(crate) fn target(&self, n: usize) -> SocketAddr {
        if let Topology::Cluster(cluster) = &self.topology {
            return (cluster.nodes[0].address(self.family), REPORT.node_port).into();
        }
        let host = (n % 254 + 1) as u8;
        let address: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::new(10, 77, 1, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, host.into()).into(),
        };
        let port = if self.variant.is_addressed() {
            INBOUND
        } else {
            PORT
        };
        (address, port).into()
    }

    /// The processes besides this one, which is client and application.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let proxy = self.proxy.iter().map(Process::id);
        proxy.chain(self.agent.iter().map(Agent::id)).collect()
    }

    /// Removes it; fails if truepeer did not learn by the evidence that is measured, or did not stop well.
    pub(crate) fn remove(mut self) -> Result<()> {
        let Some(agent) = self.agent.take() else {
            return Ok(());
        };
        for counter in [
            Counter::LearntWire,
            Counter::LearntBind,
            Counter::LearntToa,
            Counter::LearntProxy,
            Counter::LearntSnat,
        ] {
            let (name, count) = (counter.name(), agent.counter(counter)?);
            ensure!(
                (count > 0) == (self.variant.learns() == Some(counter)),
                "{}: {name} is {count}",
                self.variant.name()
            );
        }
        let bpffs = agent.config().agent.bpffs.clone();
        let log = self.directory.path().join("agent.log");
        let status = agent.stop()?;
        ensure!(
            status.success(),
            "the agent: {status}\n{}",
            std::fs::read_to_string(log)?
        );
        ensure!(!bpffs.exists(), "the agent left {}", bpffs.display());
        Ok(())
    }
}

/// A directory for the files of a measurement.
pub(crate) fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("truepeer-bench-")
        .tempdir_in("/run")?)
}

pub(crate) fn start_proxy(
    variant: Variant,
    directory: &TempDir,
    pod: &Netns,
    family: Family,
) -> Result<Option<Process>> {
    let directory = directory.path();
    let route = [route(family)];
    match variant {
        Variant::Direct | Variant::Idle | Variant::Bind | Variant::Toa => Ok(None),
        Variant::Unwrap | Variant::Relay | Variant::Node | Variant::NodeToa => Ok(None),
        Variant::Iptables | Variant::Truepeer | Variant::TruepeerLogging => {
            envoy::transparent(directory, pod, INBOUND, MARK).map(Some)
        }
        Variant::EnvoyPlain => envoy::plain(directory, pod, &route).map(Some),
        Variant::EnvoyBinding => envoy::binding(directory, pod, UID, &route).map(Some),
        Variant::HaproxyTold => haproxy::accepting(directory, pod, &route).map(Some),
        Variant::NginxTold => nginx::accepting(directory, pod, &route).map(Some),
        Variant::EnvoyTold => envoy::accepting(directory, pod, &route).map(Some),
    }
}

/// Where a proxy with a port of its own listens, and where it connects to.
pub(crate) fn route(family: Family) -> Route {
    let upstream = (family.localhost(), PORT).into();
    (any_of_family(family, INBOUND), upstream)
}

/// How the agent is set up, if there is one.
pub(crate) fn config(
    variant: Variant,
    directory: &TempDir,
    topology: &Topology,
    family: Family,
) -> Result<Option<Config>> {
    let pod = topology.pod();
    let mut config = match variant {
        Variant::Direct | Variant::Iptables | Variant::EnvoyPlain => return Ok(None),
        Variant::Node => return Ok(None),
        Variant::HaproxyTold | Variant::NginxTold | Variant::EnvoyTold => return Ok(None),
        Variant::Truepeer | Variant::TruepeerLogging => steering(directory, pod)?,
        Variant::Idle
        | Variant::Bind
        | Variant::Toa
        | Variant::EnvoyBinding
        | Variant::Unwrap
        | Variant::Relay
        | Variant::NodeToa => Config::new(directory.path(), [])?,
    };
    if variant != Variant::TruepeerLogging {
        config.agent.access_log = "off".into();
    }
    match variant {
        Variant::Idle | Variant::EnvoyBinding => config.trust.push(Trust::uid(UID)),
        Variant::Bind | Variant::Toa => {
            config.trust.push(Trust::uid(ROOT).reach("carry"));
        }
        Variant::Unwrap => {
            let port = PORT.to_string();
            let unwrap = Unwrap::new(pod, Sidecar::INTERFACE, &[port.as_str()]);
            config.unwrap.push(unwrap);
        }
        Variant::Relay => {
            let (listen, upstream) = route(family);
            let relay = Relay::proxy(pod, listen, upstream, "reveal");
            config.relay.push(relay);
        }
        _ => {}
    }
    if variant == Variant::Toa || variant.is_told() {
        let says = match variant {
            Variant::Unwrap | Variant::Relay => "proxy",
            _ => "toa",
        };
        let senders = ["10.77.0.0/24", "fd77::/64"];
        config.trust.extend(Trust::saying(&[says], senders));
    }
    if variant == Variant::Toa {
        config.carry = Some(Carry {
            toa: CarryToa {
                to: vec!["10.77.1.0/24".into(), "fd77:1::/112".into()],
                ..CarryToa::default()
            },
            ..Carry::default()
        });
    }
    if let Topology::Cluster(cluster) = topology {
        config.carry = Some(Carry {
            node: vec![cluster.nodes[0].carries(Node::UPLINK)],
            ..Carry::default()
        });
    }
    Ok(Some(config))
}

/// Steers the pod's connections to the proxy.
pub(crate) fn steering(directory: &TempDir, pod: &Netns) -> Result<Config> {
    let steer = Steer::new("inbound", pod, &["8080"], INBOUND).on(Sidecar::INTERFACE);
    Config::new(directory.path(), [steer])
}
