//! Where a soak takes place: a client, a gateway, and a server behind a cable with a weather; applications, and proxies before
//! them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use super::ledger::Ledger;
use super::way::{BINDING, HTTP_RELAY, PROXY, RELAY, TELLING, Way};
use crate::addresses::{Family, any, any_of_family};
use crate::agent::{Agent, Carry, CarryToa, Config, Relay, Reveal, Steer, Trust, Unwrap};
use crate::clients::exchange::{is_different, serve};
use crate::host::cgroup::Cgroup;
use crate::host::listener::Listener;
use crate::host::process::{Process, unique};
use crate::host::tun::Tunnel;
use crate::host::user::{NOBODY, UID, command};
use crate::proxies::own::Proxy;
use crate::proxies::{gateway_routes, local_routes};
use crate::roles;
use crate::servers::report::Report;
use crate::servers::web::Web;
use crate::topology::{Gateway, Sidecar};

const MARK: u32 = 1337;
/// Where a crowd connects to, which fills the map of origins.
pub(super) const CROWDED: u16 = 8090;
/// So many connections can have an origin: few, so that a crowd can fill the map.
pub(super) const ORIGINS: u32 = 512;
/// Where agents write whom they have served. It is not printed when a soak fails.
const ACCESS_LOG: &str = "access.jsonl";
/// The cgroup of the service that binds.
const SERVICE: &str = "service";

/// What is laid out once, and outlives every agent under test.
pub(super) struct Stage {
    directory: PathBuf,
    program: PathBuf,
    _applications: Vec<Listener>,
    _web: Web,
    _crowded: Report,
    _sidecar: Proxy,
    _telling: Process,
    _teller: Agent,
    pub(super) cable: Tunnel,
    pub(super) gateway: Gateway,
}

/// A proxy on the server that binds to the client's address, as a user without capabilities, in a cgroup that is trusted.
pub(super) struct Service {
    _proxy: Process,
    cgroup: Cgroup,
}

impl Stage {
    /// Lays it out; `program` is this crate's.
    pub(super) fn new(directory: &Path, program: &Path, ledger: &Arc<Ledger>) -> Result<Self> {
        let mut cable = None;
        let gateway = Gateway::over(|gateway, server| {
            let ends = ((Gateway::BACK, gateway), ("eth0", server));
            cable = Some(Tunnel::cable(ends.0, ends.1)?);
            Ok(())
        })?;
        let server = &gateway.server;
        let streams = Way::ALL.into_iter().filter(|way| *way != Way::Http);
        let applications = streams
            .map(|way| {
                let ledger = ledger.clone();
                Listener::start(
                    server,
                    any(way.application()),
                    false,
                    move |stream, peer| {
                        serve(stream, peer).inspect_err(|error| {
                            if is_different(error) {
                                ledger.differs(way, error);
                            }
                        })
                    },
                )
            })
            .collect::<Result<Vec<_>>>()?;
        let teller = teller(directory)?;
        let routes = gateway_routes(TELLING, Way::Told.application());
        Ok(Self {
            directory: directory.into(),
            program: program.into(),
            _applications: applications,
            _crowded: Report::start(server, any(CROWDED))?,
            _web: Web::echo(directory, server, Way::Http.application())?,
            _sidecar: Proxy::sidecar(server, any(PROXY), MARK)?,
            _telling: roles::proxy(directory, &gateway.gateway, program, &routes)?,
            _teller: teller,
            cable: cable.context("it was made above")?,
            gateway,
        })
    }

    /// Starts the service, and waits until it listens.
    pub(super) fn service(&self) -> Result<Service> {
        let cgroup = Cgroup::new(SERVICE)?;
        let server = &self.gateway.server;
        let mut command = command(server, NOBODY, &self.program)?;
        let routes = local_routes(BINDING, Way::Bound.application());
        command.arg("bind");
        for (listen, upstream) in &routes {
            command.args([listen.to_string(), upstream.to_string()]);
        }
        cgroup.admit(&mut command)?;
        let mut proxy = Process::start(&unique("service"), command, &self.directory)?;
        proxy.wait_until_it_listens(server, routes.iter().map(|(listen, _)| *listen))?;
        Ok(Service {
            _proxy: proxy,
            cgroup,
        })
    }

    /// The configuration of the agent under test.
    pub(super) fn config(&self, service: &str) -> Result<Config> {
        let server = &self.gateway.server;
        let steered = Way::Steered.application().to_string();
        let steer = Steer::new("in", server, &[&steered], PROXY).on("eth0");
        let mut config = Config::new(&self.directory, [steer])?;
        config.agent.access_log = self.directory.join(ACCESS_LOG);
        config.agent.drain = Some(1);
        config.agent.origins = Some(ORIGINS);
        let balancers = Family::ALL.map(|family| IpNet::from(Sidecar::sender(family)));
        config
            .trust
            .extend(Trust::saying(&["proxy", "xff"], balancers));
        let tellers = Family::ALL.map(|family| IpNet::from(Gateway::back(family)));
        config.trust.extend(Trust::saying(&["toa"], tellers));
        config.trust.push(Trust::cgroup(service.into()));
        let unwrapped = [Way::Unwrapped.application(), CROWDED].map(|port| port.to_string());
        let unwrapped = unwrapped.each_ref().map(String::as_str);
        config.unwrap.push(Unwrap::new(server, "eth0", &unwrapped));
        for (n, family) in (0..).zip(Family::ALL) {
            let relay = |first: u16, way: Way| {
                let upstream = (family.localhost(), way.application()).into();
                Relay::proxy(server, any_of_family(family, first + n), upstream, "reveal")
            };
            config.relay.push(relay(RELAY, Way::Relayed));
            config.relay.push(Relay {
                accept: "plain",
                protocol: Some("http"),
                trusted_hops: Some(1),
                ..relay(HTTP_RELAY, Way::Http)
            });
        }
        Ok(config)
    }
}

impl Service {
    /// The path of its cgroup.
    pub(super) fn cgroup(&self) -> String {
        self.cgroup.path()
    }
}

/// The agent of the gateway's host, which tells the server's by TOA in whose name the gateway's proxy connects.
fn teller(directory: &Path) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.agent.access_log = directory.join(ACCESS_LOG);
    config.trust.push(Trust::uid(UID).reach("carry"));
    config.reveal = Reveal {
        enabled: false,
        ..Reveal::default()
    };
    config.carry = Some(Carry {
        toa: CarryToa {
            to: Family::ALL
                .map(|family| IpNet::from(Gateway::server(family)).to_string())
                .into(),
            ..CarryToa::default()
        },
        ..Carry::default()
    });
    Agent::start(directory, config)
}
