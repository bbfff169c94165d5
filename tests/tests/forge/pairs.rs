//! Whatever tells who speaks, and whatever he says: each layer's statement is judged by the speaker whom the layer below
//! makes known. Strangers and a load balancer say the same, beside each other, by the same ways.

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use tests::agent::{
    Agent, Carry, CarryNode, CarryToa, Config, Policy, Relay, Reveal, Trust, Unwrap,
};
use tests::clients::http::Client;
use tests::clients::load;
use tests::clients::tcp::seen;
use tests::host::{iptables, scenario};
use tests::proxies::any;
use tests::proxies::proxy_header::v2;
use tests::servers::report::Report;
use tests::servers::web::Web;
use tests::topology::{Family, Gateway};
use tests::variables::{connections, usual};
use tests::wait::{Limit, SOON};

/// How many times each kind of speaker says everything, by each way, if nobody wants another number.
const ENOUGH: u32 = 6;
/// Of each kind of speaker at most so many are at it at a time. Strangers wait most of the time.
const CONCURRENT: u32 = 60;
/// How long a stranger waits for an answer to his SYN: a policy does not answer.
const PATIENCE: Limit = Limit::millis(300);
/// The number of the load balancer among the client's addresses, which the rule "edge" is about.
const BALANCER: usize = 50;
/// The number of the first stranger; there are as many as are at it at a time.
const STRANGER: usize = 51;
/// The number of the client whom they name.
const NAMED: usize = 6;
/// Where applications listen behind the relays on the server.
const BEHIND_PROXY: u16 = 9100;
const BEHIND_HTTP: u16 = 9101;

/// What is said, by the port where it is heard.
#[derive(Clone, Copy, Debug)]
enum Statement {
    /// A PROXY header, which the kernel takes off.
    Unwrapped = 8080,
    /// A PROXY header to a relay.
    Relayed = 9000,
    /// `X-Forwarded-For` to a relay.
    Xff = 9001,
    /// Nothing, to a port where a policy admits the load balancer alone.
    Judged = 8081,
}

impl Statement {
    const ALL: [Self; 4] = [Self::Unwrapped, Self::Relayed, Self::Xff, Self::Judged];

    /// Whom the application is to see; `None`: the connection is refused.
    fn expected(self, family: Family, speaker: usize) -> Option<IpAddr> {
        match (self, speaker) {
            (Self::Judged, BALANCER) => Some(family.client(BALANCER)),
            (_, BALANCER) => Some(family.client(NAMED)),
            (Self::Xff, _) => Some(family.client(speaker)),
            _ => None,
        }
    }

    /// Says it on this connection. Returns whom the application saw.
    fn say(self, family: Family, mut stream: TcpStream) -> Result<IpAddr> {
        let named = SocketAddr::new(family.client(NAMED), 4711);
        match self {
            Self::Judged => Ok(seen(&mut stream)?.accepted.ip()),
            Self::Xff => {
                let header = format!("X-Forwarded-For: {}\r\n", named.ip());
                Ok(Client::over(stream).ask(&header)?.ip())
            }
            Self::Unwrapped | Self::Relayed => {
                stream.write_all(&v2(named, stream.peer_addr()?))?;
                Ok(seen(&mut stream)?.accepted.ip())
            }
        }
    }
}

/// By which way connections come to the server, which makes their speaker known there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// As they are.
    Wire,
    /// Behind the gateway's own NAT, which it tells of.
    Snat,
    /// By a relay on the gateway, as another host's TOA.
    Toa,
    /// By a relay on the gateway, of this host.
    Bind,
}

impl Way {
    /// Where clients connect to.
    fn target(self, family: Family, port: u16) -> SocketAddr {
        match self {
            Self::Wire | Self::Snat => (Gateway::server(family), port).into(),
            Self::Toa | Self::Bind => (Gateway::front(family), port).into(),
        }
    }

    /// What the gateway does, as a part of the configuration of its agent.
    fn lay(self, directory: &Path, gateway: &Gateway, config: &mut Config) -> Result<()> {
        let ports = Statement::ALL.map(|statement| (statement as u16).to_string());
        let ports = ports.each_ref().map(String::as_str);
        match self {
            Self::Wire => {}
            Self::Snat => {
                iptables::restore(&gateway.gateway, directory, |_| {
                    let back = Gateway::BACK;
                    format!("*nat\n-A POSTROUTING -o {back} -j MASQUERADE\nCOMMIT\n")
                })?;
                config.carry = Some(Carry {
                    node: vec![CarryNode::new(&gateway.gateway, Gateway::FRONT, &ports)],
                    ..Carry::default()
                });
            }
            Self::Toa | Self::Bind => {
                let send = if self == Self::Toa { "toa" } else { "reveal" };
                config
                    .relay
                    .extend(Family::ALL.into_iter().flat_map(|family| {
                        Statement::ALL.map(|statement| {
                            let port = statement as u16;
                            let upstream = (Gateway::server(family), port).into();
                            let listen = (Gateway::front(family), port).into();
                            Relay {
                                accept: "plain",
                                ..Relay::proxy(&gateway.gateway, listen, upstream, send)
                            }
                        })
                    }));
                config.carry = Some(Carry {
                    toa: CarryToa {
                        to: Family::ALL
                            .map(|f| IpNet::from(Gateway::server(f)).to_string())
                            .into(),
                        ..CarryToa::default()
                    },
                    ..Carry::default()
                });
            }
        }
        Ok(())
    }
}

/// What the server hears, and whom it believes: the load balancer all that it says, and the gateway TOA.
fn hear(gateway: &Gateway, config: &mut Config) {
    let server = &gateway.server;
    let of = |address: fn(Family) -> IpAddr| Family::ALL.map(|f| IpNet::from(address(f)));
    let balancer = of(|family| family.client(BALANCER)).map(|prefix| prefix.to_string());
    config.trust.push(Trust {
        name: Some("edge"),
        source: balancer.clone().into(),
        says: vec!["proxy", "xff"],
        ..Trust::default()
    });
    config
        .trust
        .extend(Trust::saying(&["toa"], of(Gateway::back)));
    let unwrapped = (Statement::Unwrapped as u16).to_string();
    config
        .unwrap
        .push(Unwrap::new(server, "eth0", &[&unwrapped]));
    let behind = |port| (Family::V6.localhost(), port).into();
    let relayed = any(Statement::Relayed as u16);
    let xff = any(Statement::Xff as u16);
    config.relay.extend([
        Relay::proxy(server, relayed, behind(BEHIND_PROXY), "reveal"),
        Relay {
            accept: "plain",
            protocol: Some("http"),
            ..Relay::proxy(server, xff, behind(BEHIND_HTTP), "reveal")
        },
    ]);
    config.policy.push(Policy {
        name: "edge".into(),
        ports: vec![(Statement::Judged as u16).to_string()],
        allow: balancer.into(),
        deny: Vec::new(),
    });
}

/// What a connection came to that nobody must hear: it is reset, or never established.
fn is_refusal(error: &anyhow::Error) -> bool {
    let kinds = error
        .chain()
        .filter_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
    let refusals = [
        ErrorKind::ConnectionRefused,
        ErrorKind::ConnectionReset,
        ErrorKind::BrokenPipe,
        ErrorKind::TimedOut,
    ];
    kinds.into_iter().any(|kind| refusals.contains(&kind))
}

/// One speaker says it by a way, again and again.
fn speak(gateway: &Gateway, way: Way, speaker: usize, left: &AtomicU32) -> Result<()> {
    gateway.client.join()?;
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        .is_ok()
    {
        for family in Family::ALL {
            for statement in Statement::ALL {
                let what = || format!("{statement:?} by {way:?}, {family:?}, speaker {speaker}");
                let target = way.target(family, statement as u16);
                let source = (family.client(speaker), 0).into();
                let patience = if speaker == BALANCER { SOON } else { PATIENCE };
                let said = load::connect_within(source, target, patience);
                let said = said.map_err(anyhow::Error::from);
                let told = match said.and_then(|stream| statement.say(family, stream)) {
                    Ok(told) => Some(told),
                    Err(error) if is_refusal(&error) => None,
                    Err(error) => return Err(error).with_context(what),
                };
                let expected = statement.expected(family, speaker);
                ensure!(
                    told == expected,
                    "{}: {told:?} instead of {expected:?}",
                    what()
                );
            }
        }
    }
    Ok(())
}

fn judged(way: Way) {
    scenario(|directory| {
        let number = connections()?.unwrap_or_else(|| usual(ENOUGH));
        let gateway = Gateway::new()?;
        let server = &gateway.server;
        let ports = [
            Statement::Unwrapped as u16,
            Statement::Judged as u16,
            BEHIND_PROXY,
        ];
        let applications = ports
            .into_iter()
            .map(|port| Report::start(server, any(port)));
        let _applications = applications.collect::<Result<Vec<_>>>()?;
        let _web = Web::echo(directory, server, BEHIND_HTTP)?;
        let mut config = Config::new(directory, [])?;
        way.lay(directory, &gateway, &mut config)?;
        let mut agents = Vec::new();
        if way == Way::Toa {
            // Another host tells its own applications nothing here.
            config.reveal = Reveal {
                enabled: false,
                ..Reveal::default()
            };
            agents.push(Agent::start(directory, config)?);
            config = Config::new(directory, [])?;
        }
        hear(&gateway, &mut config);
        agents.push(Agent::start(directory, config)?);
        let (strangers, balancers) = (AtomicU32::new(number), AtomicU32::new(number));
        let gateway = &gateway;
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..CONCURRENT.min(number) as usize)
                .flat_map(|n| [(STRANGER + n, &strangers), (BALANCER, &balancers)])
                .map(|(speaker, left)| scope.spawn(move || speak(gateway, way, speaker, left)))
                .collect();
            let ended = workers
                .into_iter()
                .map(|worker| worker.join().expect("no panic"));
            ended.fold(Ok(()), Result::and)
        })
    });
}

#[test]
fn as_they_are() {
    judged(Way::Wire);
}

#[test]
fn behind_a_nodes_nat() {
    judged(Way::Snat);
}

#[test]
fn told_by_another_hosts_toa() {
    judged(Way::Toa);
}

#[test]
fn told_by_a_relay_of_this_host() {
    judged(Way::Bind);
}
