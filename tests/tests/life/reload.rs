//! A configuration that cannot be taken up leaves everything as it was, with the connections in progress and the new ones.

use std::path::Path;

use agent_common::Counter;
use anyhow::{Result, ensure};
use ipnet::IpNet;
use nix::sys::signal::Signal;
use tests::agent::records::{no_origins, none_refused};
use tests::agent::spoilt::{REFUSED, spoilt};
use tests::agent::{Agent, Config, Relay, Steer, Trust, Unwrap};
use tests::clients::load::Load;
use tests::host::scenario;
use tests::proxies::own::Proxy;
use tests::proxies::{any, any_of_family, gateway_routes, haproxy};
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};

/// Where headers are taken off.
const UNWRAPPED: u16 = 8080;
/// What is steered to a proxy.
const STEERED: u16 = 8082;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;
/// Where the relays listen, one for each family, and their application.
const RELAY: u16 = 9000;
const BEHIND: u16 = 8083;
/// Where the load balancer listens, one for each family: before headers are taken off, and before the relays.
const TO_UNWRAPPED: u16 = 15001;
const TO_RELAY: u16 = 15011;

/// Steer, unwrap and relay on the server.
fn config(directory: &Path, gateway: &Gateway) -> Result<Config> {
    let server = &gateway.server;
    let steer = Steer::new("in", server, &[&STEERED.to_string()], PROXY).on("eth0");
    let mut config = Config::new(directory, [steer])?;
    let balancer = Family::ALL.map(|family| IpNet::from(Gateway::back(family)));
    config.trust.extend(Trust::saying(&["proxy"], balancer));
    let unwrapped = UNWRAPPED.to_string();
    config
        .unwrap
        .push(Unwrap::new(server, "eth0", &[&unwrapped]));
    for (family, port) in Family::ALL.into_iter().zip(RELAY..) {
        let upstream = (family.localhost(), BEHIND).into();
        let listen = any_of_family(family, port);
        config
            .relay
            .push(Relay::proxy(server, listen, upstream, "reveal"));
    }
    Ok(config)
}

#[test]
fn what_fails_leaves_no_trace() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let applications = [UNWRAPPED, STEERED, BEHIND].into_iter();
        let applications = applications.map(|port| Report::start(&gateway.server, any(port)));
        let _applications = applications.collect::<Result<Vec<_>>>()?;
        let mut routes = gateway_routes(TO_UNWRAPPED, UNWRAPPED);
        let relays = Family::ALL.into_iter().zip(RELAY..);
        routes.extend(relays.zip(TO_RELAY..).map(|((family, relay), port)| {
            let target = (Gateway::server(family), relay).into();
            (any_of_family(family, port), target)
        }));
        let options = "send-proxy-v2 proxy-v2-options unique-id";
        let _balancer = haproxy::telling(directory, &gateway.gateway, options, &routes)?;
        let _proxy = Proxy::sidecar(&gateway.server, any(PROXY), MARK)?;
        let agent = Agent::start(directory, config(directory, &gateway)?)?;
        let load = |targets| Load {
            connections: 48,
            concurrent: 12,
            ..Load::new(targets)
        };
        let told = [TO_UNWRAPPED, TO_RELAY].map(Gateway::targets).concat();
        let (told, steered) = (
            load(told),
            load(
                Family::ALL
                    .map(|family| (Gateway::server(family), STEERED).into())
                    .into(),
            ),
        );
        let mut held = told.hold(&gateway.client)?;
        held.extend(steered.hold(&gateway.client)?);
        let translated = agent.counter(Counter::UnwrapTranslated)?;
        ensure!(translated > 0, "no connection is translated");
        let good = agent.config().clone();
        let ((_, by_steer), by_header) = told.during(&gateway.client, |told| {
            steered.during(&gateway.client, |steered| {
                for (when, config) in spoilt(&good)? {
                    agent.says(REFUSED, || {
                        config.write()?;
                        agent.signal(Signal::SIGHUP)
                    })?;
                    told.more(when)?;
                    steered.more(when)?;
                }
                let file = good.write()?;
                agent.says(REFUSED, || {
                    std::fs::write(&file, "[[unwrap]")?;
                    agent.signal(Signal::SIGHUP)
                })?;
                // What is good is taken up, as ever.
                agent.reload(&good)?;
                told.more("with the good configuration again")?;
                steered.more("with the good configuration again")
            })
        })?;
        by_header.all_exact()?;
        by_steer.all_kept()?;
        ensure!(by_steer.exact == 0, "not all by the proxy: {by_steer:?}");
        for connection in &mut held {
            connection.ping()?;
        }
        drop(held);
        none_refused(&agent)?;
        no_origins(&agent)
    });
}
