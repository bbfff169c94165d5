//! The namespaces of the playground, and the proxies and the agent in them.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::IpNet;
use tests::agent::{Agent, Carry, CarryToa, Config, Steer, Trust, Unwrap};
use tests::balancer::{relay_of, relays, targets};
use tests::clients::load::{Application, Connection};
use tests::cluster::kube_proxy::Mode;
use tests::cluster::nodes::{Cluster, Node, REPORT};
use tests::host::process::Process;
use tests::host::user::UID;
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::roles;
use tests::servers::report::Report;
use tests::topology::istio::{self, INBOUND, passthrough};
use tests::topology::{Family, Gateway, Sidecar};

use crate::route::{Hop, Route};
use crate::table::After;

pub(crate) const PORT: u16 = 8080;
/// A port of the range 9000-9099.
pub(crate) const RANGE_PORT: u16 = 9042;
/// Where the transparent proxies listen.
pub(crate) const PROXY: u16 = 15006;
/// Where the ordinary proxies listen, of the sidecar and the gateway and of the range.
pub(crate) const PLAIN: u16 = 15001;
pub(crate) const PLAIN_RANGE: u16 = 15002;
/// Where the proxy that binds listens: an ordinary listener that nothing is steered to.
pub(crate) const BIND: u16 = 15003;
/// Where the proxy listens that binds, too, but whose application is on the next host.
pub(crate) const CARRY: u16 = 15004;
/// Where the proxy listens that tells its clients by a PROXY header, and the application's port for it.
pub(crate) const TELL: u16 = 15005;
pub(crate) const UNWRAP: u16 = 8000;
/// The agent's default mark, which is Istio's too.
pub(crate) const MARK: u32 = 0x539;
/// Which of the client's addresses connects: 203.0.113.7 and 2001:db8:c::7.
pub(crate) const CLIENT: usize = 6;

pub(crate) struct Playground {
    pub(crate) _applications: [Report; 6],
    pub(crate) sidecar: Sidecar,
    pub(crate) istio: Sidecar,
    pub(crate) gateway: Gateway,
    pub(crate) cluster: Cluster,
}

pub(crate) struct Steered {
    pub(crate) agent: Agent,
    pub(crate) _proxies: Vec<Proxy>,
    pub(crate) _telling: Vec<Proxy>,
    pub(crate) _binding: [Process; 3],
    pub(crate) directory: tempfile::TempDir,
}

impl Playground {
    pub(crate) fn new() -> Result<Self> {
        let sidecar = Sidecar::new()?;
        let istio = Sidecar::new()?;
        let directory = tempfile::tempdir()?;
        istio::redirect(&istio.pod, directory.path())?;
        let gateway = Gateway::new()?;
        let cluster = Cluster::new(directory.path(), Mode::Iptables, 0)?;
        Ok(Self {
            _applications: [
                Report::start(&sidecar.pod, any(PORT))?,
                Report::start(&sidecar.pod, any(RANGE_PORT))?,
                Report::start(&istio.pod, any(PORT))?,
                Report::start(&gateway.server, any(PORT))?,
                Report::start(&gateway.server, any(UNWRAP))?,
                Report::start(&cluster.nodes[0].pod, any(REPORT.target))?,
            ],
            sidecar,
            istio,
            gateway,
            cluster,
        })
    }

    /// Through ordinary proxies, which are gone afterwards.
    pub(crate) fn before(&self) -> Result<Vec<Connection>> {
        self.routes()
            .iter()
            .map(|route| {
                let redirected =
                    || Proxy::redirected(any(INBOUND), |c| (passthrough(Family::of(c)), 0).into());
                let (_proxy, target) = match route.hop {
                    Hop::Proxy(plain) => {
                        let proxy = Proxy::plain(route.proxy, plain, route.upstream)?;
                        (Some(proxy), plain)
                    }
                    Hop::Redirect => (Some(route.proxy.enter(redirected)?), route.target),
                    Hop::Nat => (None, route.target),
                };
                connect(route, target).context("without truepeer")
            })
            .collect()
    }

    /// Starts transparent proxies and the agent.
    pub(crate) fn steer(&self, binary: &Path) -> Result<Steered> {
        let mut proxies = vec![
            Proxy::sidecar(&self.sidecar.pod, any(PROXY), MARK)?,
            Proxy::gateway(&self.gateway.gateway, any(PROXY))?,
        ];
        for route in self.routes().iter().filter(|r| r.name == "unwrap") {
            proxies.push(Proxy::telling(route.proxy, route.target, route.upstream)?);
        }
        let directory = tempfile::Builder::new()
            .prefix("truepeer-playground-")
            .tempdir_in("/run")?;
        let steers = [
            Steer::new("sidecar", &self.sidecar.pod, &["8080"], PROXY).on(Sidecar::INTERFACE),
            Steer::new("gateway", &self.gateway.gateway, &["8080"], PROXY)
                .on(Gateway::FRONT)
                .answers(Gateway::BACK),
            Steer::new("range", &self.sidecar.pod, &["9000-9099"], PROXY),
        ];
        let mut config = Config::new(directory.path(), steers)?;
        config.trust.push(Trust {
            local_source: Family::ALL.map(passthrough).into(),
            ..Trust::uid(UID).reach("carry")
        });
        let gateways = Family::ALL.map(|family| IpNet::from(Gateway::back(family)));
        config
            .trust
            .extend(Trust::saying(&["toa", "proxy"], gateways));
        let unwrap = Unwrap::new(&self.gateway.server, "eth0", &["8000"]);
        config.unwrap.push(unwrap);
        config.carry = Some(Carry {
            toa: CarryToa {
                to: Family::ALL
                    .map(|family| IpNet::from(Gateway::server(family)).to_string())
                    .into(),
                ..CarryToa::default()
            },
            node: vec![self.cluster.nodes[0].carries(Node::UPLINK)],
        });
        config.relay = relays(&self.gateway.server, "reveal");
        println!("with this configuration, all else default:\n");
        for line in toml::to_string(&config)?.lines() {
            println!("    {line}");
        }
        println!();
        let agent = Agent::start_binary(binary, directory.path(), config)?;
        let own = std::env::current_exe()?;
        let binding = |netns, evidence| {
            let routes: Vec<_> = self
                .routes()
                .iter()
                .filter(|route| route.evidence == evidence && route.hop != Hop::Redirect)
                .map(|route| (route.target, route.upstream))
                .collect();
            roles::proxy(directory.path(), netns, &own, &routes)
        };
        let binding = [
            binding(&self.sidecar.pod, "bind")?,
            binding(&self.gateway.gateway, "toa")?,
            roles::redirected(directory.path(), &self.istio.pod, &own, any(INBOUND))?,
        ];
        let telling = Family::ALL
            .into_iter()
            .zip(targets())
            .map(|(family, listen)| Proxy::telling(&self.gateway.gateway, listen, relay_of(family)))
            .collect::<Result<_>>()?;
        Ok(Steered {
            agent,
            _proxies: proxies,
            _telling: telling,
            _binding: binding,
            directory,
        })
    }

    /// Straight to the applications, which truepeer steers to the proxies, and to the proxies that bind or tell.
    pub(crate) fn after(&self) -> Vec<After> {
        self.routes()
            .iter()
            .map(|route| After {
                name: format!("{} {}", route.name, route.family.name()),
                connection: connect(route, route.target),
                evidence: route.evidence,
                keeps_port: route.keeps_port,
            })
            .collect()
    }

    pub(crate) fn print_hints(&self, binary: &Path, steered: &Steered) {
        let agent = &steered.agent.config().agent;
        let socket = agent.socket.display();
        let enter = format!("sudo ip netns exec {}", self.sidecar.client.name());
        println!(
            "
The connections above stay open. In another terminal, try what follows. In the pod, each connection
has two sockets: the proxy's and, with the proxy's own port, the application's.

    sudo {binary} peers --socket {socket}
    sudo {binary} peers --top --socket {socket}
    sudo {binary} status --socket {socket}
    sudo curl --unix-socket {socket} http://localhost/v1/peers
    curl http://{metrics}/metrics
    sudo tail -f {access_log}

Connect again, and read whom the application sees, by IPv4, by IPv6 and in the range of ports:

    {enter} bash -c 'head -1 </dev/tcp/{v4}/{PORT}'
    {enter} bash -c 'head -1 </dev/tcp/{v6}/{PORT}'
    {enter} bash -c 'head -1 </dev/tcp/{v4}/{RANGE_PORT}'

The agent writes to {log}.
Ctrl-C removes everything.",
            binary = binary.display(),
            metrics = agent.metrics,
            access_log = agent.access_log.display(),
            v4 = Sidecar::address(Family::V4),
            v6 = Sidecar::address(Family::V6),
            log = steered.directory.path().join("agent.log").display(),
        );
    }
}

pub(crate) fn connect(route: &Route<'_>, target: SocketAddr) -> Result<Connection> {
    route
        .client
        .enter(|| Connection::open(CLIENT, target, Application::Report))
}
