//! Shows what truepeer does, in namespaces of its own: connections through transparent proxies, and
//! whom the application sees without truepeer and with it.

mod table;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ipnet::IpNet;
use nix::sys::signal::{SigSet, Signal};
use table::After;
use tests::agent::{Agent, Carry, CarryToa, Config, Steer, Trust, Unwrap, binary};
use tests::clients::load::{Application, Connection};
use tests::cluster::istio::{self, INBOUND, passthrough};
use tests::cluster::kube_proxy::Mode;
use tests::cluster::nodes::{Cluster, Node, REPORT};
use tests::host::netns::{Netns, require_privileges};
use tests::host::process::Process;
use tests::host::traces::remove_orphans;
use tests::host::user::UID;
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::roles::{self, Role};
use tests::servers::report::Report;
use tests::topology::balancer::{relay_of, relays, targets};
use tests::topology::{Family, Gateway, Sidecar};

const PORT: u16 = 8080;
/// A port of the range 9000-9099.
const RANGE_PORT: u16 = 9042;
/// Where the transparent proxies listen.
const PROXY: u16 = 15006;
/// Where the ordinary proxies listen, of the sidecar and the gateway and of the range.
const PLAIN: u16 = 15001;
const PLAIN_RANGE: u16 = 15002;
/// Where the proxy that binds listens: an ordinary listener that nothing is steered to.
const BIND: u16 = 15003;
/// Where the proxy listens that binds, too, but whose application is on the next host.
const CARRY: u16 = 15004;
/// Where the proxy listens that tells its clients by a PROXY header, and the application's port for it.
const TELL: u16 = 15005;
const UNWRAP: u16 = 8000;
/// The agent's default mark, which is Istio's too.
const MARK: u32 = 0x539;
/// Which of the client's addresses connects: 203.0.113.7 and 2001:db8:c::7.
const CLIENT: usize = 6;

/// Lays out a playground and shows whom an application behind a proxy sees, before and after.
#[derive(Parser)]
struct Arguments {
    /// Exit after the table; the status is not zero if any row is wrong
    #[arg(long)]
    once: bool,
    /// The agent's binary [default: the newest below target/]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(role) = arguments.role {
        return role.play().map(|()| ExitCode::SUCCESS);
    }
    require_privileges()?;
    let agent = match arguments.agent {
        Some(path) => path,
        None => binary()?,
    };
    // Blocked before the first thread starts: a signal waits until everything stands and can be
    // taken down in order.
    let stop = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    stop.thread_block()?;
    remove_orphans()?;

    println!(
        "Laying out namespaces: client, pod, twice; client, gateway, server; client, nodes, pods"
    );
    let playground = Playground::new()?;
    println!("Connecting through ordinary proxies, without truepeer");
    let before = playground.before()?;
    println!("Starting transparent proxies and {} run", agent.display());
    let steered = playground.steer(&agent)?;
    println!("Connecting through them\n");
    let after = playground.after();
    let good = table::print(&before, &after, &steered.agent)?;
    if !arguments.once {
        playground.print_hints(&agent, &steered);
        stop.wait()?;
        println!("\nRemoving everything");
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What hides the client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hop {
    /// An ordinary proxy, with this address.
    Proxy(SocketAddr),
    /// A proxy to which iptables redirect the client.
    Redirect,
    /// kube-proxy's rules.
    Nat,
}

/// One way from a client to an application.
struct Route<'a> {
    name: &'static str,
    family: Family,
    client: &'a Netns,
    /// Where the proxy runs.
    proxy: &'a Netns,
    /// What is between client and application without truepeer.
    hop: Hop,
    /// What the ordinary proxy connects to.
    upstream: SocketAddr,
    /// The application, as the client knows it.
    target: SocketAddr,
    /// How truepeer knows the client.
    evidence: &'static str,
    /// Whether the application sees the client's port too.
    keeps_port: bool,
}

struct Playground {
    _applications: [Report; 6],
    sidecar: Sidecar,
    istio: Sidecar,
    gateway: Gateway,
    cluster: Cluster,
}

struct Steered {
    agent: Agent,
    _proxies: Vec<Proxy>,
    _telling: Vec<Proxy>,
    _binding: [Process; 3],
    directory: tempfile::TempDir,
}

impl Playground {
    fn new() -> Result<Self> {
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

    fn routes(&self) -> Vec<Route<'_>> {
        let sidecar = |name, plain, port| {
            Family::ALL.map(|family| Route {
                name,
                family,
                client: &self.sidecar.client,
                proxy: &self.sidecar.pod,
                hop: Hop::Proxy((Sidecar::address(family), plain).into()),
                upstream: (family.localhost(), port).into(),
                target: (Sidecar::address(family), port).into(),
                evidence: "wire",
                keeps_port: false,
            })
        };
        let gateway = Family::ALL.map(|family| Route {
            name: "gateway",
            family,
            client: &self.gateway.client,
            proxy: &self.gateway.gateway,
            hop: Hop::Proxy((Gateway::front(family), PLAIN).into()),
            upstream: (Gateway::server(family), PORT).into(),
            target: (Gateway::server(family), PORT).into(),
            evidence: "wire",
            keeps_port: true,
        });
        let bind = Family::ALL.map(|family| Route {
            name: "bind",
            family,
            client: &self.sidecar.client,
            proxy: &self.sidecar.pod,
            hop: Hop::Proxy((Sidecar::address(family), BIND).into()),
            upstream: (family.localhost(), PORT).into(),
            target: (Sidecar::address(family), BIND).into(),
            evidence: "bind",
            keeps_port: true,
        });
        let carry = Family::ALL.map(|family| Route {
            name: "TOA",
            family,
            client: &self.gateway.client,
            proxy: &self.gateway.gateway,
            hop: Hop::Proxy((Gateway::front(family), CARRY).into()),
            upstream: (Gateway::server(family), PORT).into(),
            target: (Gateway::front(family), CARRY).into(),
            evidence: "toa",
            keeps_port: true,
        });
        let relay = Family::ALL.into_iter().zip(targets());
        let relay = relay.map(|(family, target)| Route {
            name: "relay",
            family,
            client: &self.gateway.client,
            proxy: &self.gateway.gateway,
            hop: Hop::Proxy(target),
            upstream: (Gateway::server(family), PORT).into(),
            target,
            evidence: "proxy",
            keeps_port: true,
        });
        let unwrap = Family::ALL.map(|family| Route {
            name: "unwrap",
            family,
            client: &self.gateway.client,
            proxy: &self.gateway.gateway,
            hop: Hop::Proxy((Gateway::front(family), TELL).into()),
            upstream: (Gateway::server(family), UNWRAP).into(),
            target: (Gateway::front(family), TELL).into(),
            evidence: "proxy",
            keeps_port: true,
        });
        let istio = Family::ALL.map(|family| {
            let target = (Sidecar::address(family), PORT).into();
            Route {
                name: "Istio REDIRECT",
                family,
                client: &self.istio.client,
                proxy: &self.istio.pod,
                hop: Hop::Redirect,
                upstream: target,
                target,
                evidence: "bind",
                keeps_port: true,
            }
        });
        let node = &self.cluster.nodes[0];
        let node_port = node.targets(REPORT).map(|target| Route {
            name: "node port",
            family: Family::of(target),
            client: &self.cluster.client,
            proxy: &node.netns,
            hop: Hop::Nat,
            upstream: target,
            target,
            evidence: "snat",
            keeps_port: true,
        });
        let mut routes = Vec::from(unwrap);
        routes.extend(sidecar("sidecar", PLAIN, PORT));
        routes.extend(gateway);
        routes.extend(sidecar("range (sk_lookup)", PLAIN_RANGE, RANGE_PORT));
        routes.extend(bind);
        routes.extend(istio);
        routes.extend(carry);
        routes.extend(relay);
        routes.extend(node_port);
        routes
    }

    /// Through ordinary proxies, which are gone afterwards.
    fn before(&self) -> Result<Vec<Connection>> {
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
    fn steer(&self, binary: &Path) -> Result<Steered> {
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
        config.trust = Trust {
            uids: vec![UID],
            local_source: Family::ALL.map(passthrough).into(),
            sources: Family::ALL
                .map(|family| IpNet::from(Gateway::back(family)).to_string())
                .into(),
            ..Trust::default()
        };
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
    fn after(&self) -> Vec<After> {
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

    fn print_hints(&self, binary: &Path, steered: &Steered) {
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

fn connect(route: &Route<'_>, target: SocketAddr) -> Result<Connection> {
    route
        .client
        .enter(|| Connection::open(CLIENT, target, Application::Report))
}
