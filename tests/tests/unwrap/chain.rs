//! A client passes hop after hop: a load balancer tells it in a PROXY header, truepeer takes that off, a sidecar binds to
//! the client, and an application that knows nothing of all that sees it.

use agent_common::Counter;
use anyhow::ensure;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Steer, Trust, Unwrap};
use tests::clients::load::Load;
use tests::host::scenario;
use tests::host::user::UID;
use tests::proxies::{Route, any, any_of_family, envoy, haproxy, local_routes};
use tests::servers::report::Report;
use tests::topology::{Family, Gateway, Sidecar};

use crate::stage::{Established, in_pod};

/// Where the load balancer listens for IPv4; it listens on the next port for IPv6, and so does the sidecar.
const BALANCER: u16 = 9100;
const SIDECAR: u16 = 8000;
const APPLICATION: u16 = 8080;
/// Where what is steered goes.
const PROXY: u16 = 15006;

#[test]
fn load_balancer_sidecar_application() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let server = &gateway.server;
        let _application = Report::start(server, any(APPLICATION))?;
        let to_sidecar: Vec<Route> = Family::ALL
            .into_iter()
            .zip(0..)
            .map(|(family, n)| {
                let sidecar = (Gateway::server(family), SIDECAR + n).into();
                (any_of_family(family, BALANCER + n), sidecar)
            })
            .collect();
        let balancer = haproxy::telling(directory, &gateway.gateway, "send-proxy-v2", &to_sidecar)?;

        let mut config = Config::new(directory, [])?;
        config
            .trust
            .extend(Trust::saying(&["proxy"], ["10.78.0.1/32", "fd78::1/128"]));
        config.trust.push(Trust::uid(UID));
        config
            .unwrap
            .push(Unwrap::new(server, "eth0", &["8000-8001"]));
        let agent = Agent::start(directory, config)?;
        let routes = local_routes(SIDECAR, APPLICATION);
        let sidecar = envoy::binding(directory, server, UID, &routes)?;

        let load = Load::new(Gateway::targets(BALANCER));
        load.run(&gateway.client).all_kept()?;
        let held = load.hold(&gateway.client)?;
        let peers = agent.peers()?;
        for connection in &held {
            let client = connection.client;
            let known = |evidence| {
                let mut peers = peers.0.iter();
                peers.any(|peer| peer.client.ip() == client.ip() && peer.evidence == evidence)
            };
            ensure!(
                known("proxy"),
                "{client} is unknown to the sidecar: {peers:?}"
            );
            ensure!(
                known("bind"),
                "{client} is unknown to the application: {peers:?}"
            );
        }
        drop(held);
        sidecar.stop()?;
        balancer.stop()?;
        no_origins(&agent)
    });
}

/// A connection that is unwrapped and steered is steered once, though unwrap looks for its listener as well.
#[test]
fn steered_in_the_same_namespace() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _proxy = Report::start(&sidecar.pod, any(PROXY))?;
        let mut config = in_pod(directory, &sidecar, &["8080"])?;
        config
            .steer
            .push(Steer::new("in", &sidecar.pod, &["8080"], PROXY));
        let agent = Agent::start(directory, config)?;
        for (family, number) in Family::ALL.into_iter().zip(1..) {
            Established::new(&sidecar, family, None)?;
            let steered = agent.counter(Counter::Steered)?;
            ensure!(steered == number, "{steered} instead of {number}");
        }
        Ok(())
    });
}
