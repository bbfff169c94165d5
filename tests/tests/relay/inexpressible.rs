//! An IPv6 client and a server with an IPv4 socket, which cannot be told: it would see the relay's loopback address.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Reveal};
use tests::balancer::{APPLICATION, client_of, config, refused, relay_of, relays};
use tests::clients::http::Client;
use tests::clients::tcp::{assert_reset, connect, seen};
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::v2_with_checksum;
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};
use tests::wait::eventually;

use crate::stage::for_http;

/// An agent whose relays both connect to the application by IPv4.
fn agent(
    directory: &Path,
    topology: &Gateway,
    is_http: bool,
    inexpressible: Option<&'static str>,
) -> Result<Agent> {
    let mut relays = relays(&topology.server, "reveal");
    if is_http {
        relays = for_http(relays, Some(1));
    }
    for relay in &mut relays {
        relay.upstream = vec![(Ipv4Addr::LOCALHOST, APPLICATION).into()];
    }
    let mut config = config(directory, relays)?;
    config.reveal = Reveal {
        inexpressible,
        ..Reveal::default()
    };
    Agent::start(directory, config)
}

fn send(topology: &Gateway, family: Family) -> Result<std::net::TcpStream> {
    let mut stream = connect(&topology.gateway, relay_of(family))?;
    stream.write_all(&v2_with_checksum(client_of(family), relay_of(family)))?;
    Ok(stream)
}

#[test]
fn is_refused_with_a_reason_of_its_own() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let listen: SocketAddr = (Ipv4Addr::LOCALHOST, APPLICATION).into();
        let report = Report::start(&topology.server, listen)?;
        let agent = agent(directory, &topology, false, None)?;
        let told = seen(&mut send(&topology, Family::V4)?)?.accepted;
        ensure!(told == client_of(Family::V4), "told as {told}");
        let client = client_of(Family::V6);
        assert_reset(send(&topology, Family::V6)?, "an IPv6 client")?;
        ensure!(
            refused(&agent, Family::V6, "inexpressible")? == 1,
            "counted"
        );
        ensure!(refused(&agent, Family::V6, "upstream")? == 0, "upstream");
        let lines = eventually("the refusal is logged", || {
            let mut lines = agent.access_log()?;
            lines.retain(|line| line["client"] == client.to_string());
            Ok((!lines.is_empty()).then_some(lines))
        })?;
        let [line] = &lines[..] else {
            anyhow::bail!("{lines:?}");
        };
        ensure!(
            line["refused"] == "inexpressible" && line["evidence"] == "proxy",
            "{line}"
        );
        // A dual-stack socket can express the client, also of a connection over IPv4.
        drop(report);
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let told = seen(&mut send(&topology, Family::V6)?)?.accepted;
        ensure!(told == client, "told as {told}");
        no_origins(&agent)
    });
}

#[test]
fn passes_if_that_is_wanted() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let listen: SocketAddr = (Ipv4Addr::LOCALHOST, APPLICATION).into();
        let _report = Report::start(&topology.server, listen)?;
        let agent = agent(directory, &topology, false, Some("pass"))?;
        let told = seen(&mut send(&topology, Family::V6)?)?.accepted;
        ensure!(told.ip() == Ipv4Addr::LOCALHOST, "told as {told}");
        ensure!(
            refused(&agent, Family::V6, "inexpressible")? == 0,
            "counted"
        );
        Ok(())
    });
}

#[test]
fn is_refused_for_each_request() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let listen: SocketAddr = (Ipv4Addr::LOCALHOST, APPLICATION).into();
        let _report = Report::start(&topology.server, listen)?;
        let agent = agent(directory, &topology, true, None)?;
        let mut gateway = Client::connect(&topology.gateway, relay_of(Family::V4))?;
        let client = client_of(Family::V6).ip();
        let head = format!("Host: a\r\nX-Forwarded-For: {client}\r\n\r\n");
        gateway.send(format!("GET /path HTTP/1.1\r\n{head}").as_bytes())?;
        let answer = gateway.answer()?;
        ensure!(
            answer.status == 503 && answer.body.contains("cannot express"),
            "{answer:?}"
        );
        ensure!(
            refused(&agent, Family::V4, "inexpressible")? == 1,
            "counted"
        );
        let line = eventually("the refusal is logged", || Ok(agent.access_log()?.pop()))?;
        ensure!(
            line["refused"] == "inexpressible" && line["path"] == "/path" && line["status"] == 503,
            "{line}"
        );
        Ok(())
    });
}
