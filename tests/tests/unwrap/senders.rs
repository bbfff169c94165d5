//! Load balancers that send PROXY headers to servers that know nothing of it: `accept()` returns the
//! client.

use std::path::Path;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use tests::agent::Agent;
use tests::agent::records::{no_origins, none_refused};
use tests::clients::load::Load;
use tests::host::netns::Netns;
use tests::host::process::Process;
use tests::host::scenario;
use tests::proxies::{Route, any, envoy, gateway_routes, haproxy, nginx};
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};
use tests::wait::{Limit, eventually};

use crate::stage::on_server;

const SERVER: u16 = 8080;
/// The sender's port for IPv4; the next is for IPv6.
const SENDER: u16 = 15001;

/// Many clients of each family: the report server, which speaks first, sees each of them. `has_id`: the sender
/// tells its identification of the connection.
fn sender(
    start: fn(&Path, &Netns, &[Route]) -> Result<Process>,
    is_translated: bool,
    has_id: bool,
) {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _report = Report::start(&gateway.server, any(SERVER))?;
        let _sender = start(directory, &gateway.gateway, &gateway_routes(SENDER, SERVER))?;
        let agent = Agent::start(directory, on_server(directory, &gateway, &["8080"])?)?;
        let mut made = 0;
        for target in Gateway::targets(SENDER) {
            let load = Load::new([target]);
            load.run(&gateway.client).all_exact()?;
            let mut held = load.hold(&gateway.client)?;
            made += (load.connections + held.len()) as u64;
            let peers = agent.peers()?;
            for connection in &mut held {
                connection.ping()?;
                let client = connection.client;
                let peer = peers.0.iter().find(|peer| peer.client == client);
                let peer = peer.with_context(|| format!("no origin for {client}"))?;
                let id = format!("id-of-{}-{}", client.ip(), client.port());
                let is_told = peer.proxy["unique_id"] == id;
                ensure!(is_told == has_id, "{client} is known as {peer:?}");
                ensure!(
                    peer.original_dst == connection.target
                        && peer.evidence == "proxy"
                        && peer.trusted_by.starts_with("source ")
                        && peer.local == connection.seen.local
                        && peer.remote.ip() == Gateway::back(Family::of(target)),
                    "{client} is known as {peer:?}"
                );
            }
        }
        let learnt = agent.counter(Counter::LearntProxy)?;
        ensure!(
            learnt == made,
            "{learnt} of {made} connections were unwrapped"
        );
        let translated = agent.counter(Counter::UnwrapTranslated)?;
        ensure!(
            (translated > 0) == is_translated,
            "{translated} connections are translated"
        );
        none_refused(&agent)?;
        no_origins(&agent)
    });
}

#[test]
fn haproxy_v2() {
    let options = |directory: &Path, netns: &Netns, routes: &[Route]| {
        haproxy::telling(directory, netns, "send-proxy-v2", routes)
    };
    sender(options, false, false);
}

#[test]
fn haproxy_v2_with_tlvs() {
    let options = |directory: &Path, netns: &Netns, routes: &[Route]| {
        let options = "send-proxy-v2 proxy-v2-options crc32c,unique-id";
        haproxy::telling(directory, netns, options, routes)
    };
    sender(options, true, true);
}

#[test]
fn haproxy_v1() {
    let options = |directory: &Path, netns: &Netns, routes: &[Route]| {
        haproxy::telling(directory, netns, "send-proxy", routes)
    };
    sender(options, true, false);
}

#[test]
fn nginx_v1() {
    sender(nginx::telling, true, false);
}

#[test]
fn envoy_v1() {
    sender(
        |directory, netns, routes| envoy::telling(directory, netns, "V1", routes),
        true,
        false,
    );
}

#[test]
fn envoy_v2() {
    sender(
        |directory, netns, routes| envoy::telling(directory, netns, "V2", routes),
        false,
        false,
    );
}

/// HAProxy's health checks speak for no client: the server sees HAProxy itself.
#[test]
fn haproxy_health_checks() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _report = Report::start(&gateway.server, any(SERVER))?;
        let agent = Agent::start(directory, on_server(directory, &gateway, &["8080"])?)?;
        let checks = |agent: &Agent| -> Result<usize> {
            let lines = agent.access_log()?.into_iter();
            let own = lines.filter(|line| line["client"] == line["remote"]);
            Ok(own.filter(|line| line["evidence"] == "proxy").count())
        };
        for version in ["send-proxy-v2", "send-proxy"] {
            // A check waits for what the server says, and fails if that is not a report of HAProxy's address.
            // HAProxy gives a check as long as lies between two.
            let pause = Limit::millis(200).here().as_millis();
            let options = format!("{version} check check-send-proxy inter {pause}ms fall 1");
            let check =
                "option tcp-check\n  tcp-check expect rstring accepted.*(10.78.0.1|fd78::1)";
            let routes = gateway_routes(SENDER, SERVER);
            let _sender = haproxy::checking(directory, &gateway.gateway, &options, check, &routes)?;
            let what = format!("health checks with {version} are in the access log");
            let before = checks(&agent)?;
            eventually(&what, || Ok((checks(&agent)? > before + 10).then_some(())))?;
            // A server whose checks fail gets no connections.
            Load::new(Gateway::targets(SENDER))
                .run(&gateway.client)
                .all_exact()?;
        }
        none_refused(&agent)
    });
}
