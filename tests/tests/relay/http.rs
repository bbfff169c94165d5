//! Chains of real HTTP proxies in front of the relay, and a real server behind it: each request has its
//! own client, whatever is forged and however connections are shared.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Trust};
use tests::balancer::{
    APPLICATION, BALANCER, agent, client_of, config, relay_of, relays, routes, targets,
};
use tests::clients::http::{Client, Request};
use tests::host::netns::{Netns, run};
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::proxy_header::v2_with_checksum;
use tests::proxies::{Route, any_of_family, haproxy, nginx};
use tests::servers::web::Web;
use tests::topology::{Family, Gateway};
use tests::wait::{SOON, eventually};

use crate::stage::for_http;

/// Where the outer of two proxies listens for each family, on the gateway.
const OUTER: u16 = 9110;
/// What a client claims that would like to be someone else.
const FORGED: [&str; 6] = [
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-For: 2001:db8::6, 10.78.0.1",
    "X-Forwarded-For: 10.78.0.1, 10.78.0.1, 10.78.0.1",
    "X-Forwarded-For: junk,",
    "Forwarded: for=6.6.6.6",
    "X-Envoy-External-Address: 6.6.6.6",
];

/// The body of curl's answer; `client` is its address.
fn curl(netns: &Netns, client: IpAddr, url: &str, more: &[&str]) -> Result<String> {
    let mut command = netns.command("curl")?;
    let most = SOON.whole_secs().to_string();
    command.args(["-sS", "--max-time", &most, "--interface"]);
    command.arg(client.to_string()).args(more).arg(url);
    run(&mut command)
}

/// The request's one client, by each way in which it is told.
fn assert_client(request: &Request, client: IpAddr) -> Result<()> {
    let node = match client {
        IpAddr::V4(ip) => format!("for={ip},"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\","),
    };
    ensure!(
        request.ip() == client
            && request.header("x-envoy-external-address") == [client.to_string()]
            && request.header("forwarded").concat().starts_with(&node)
            && request.header("x-forwarded-for").len() == 1,
        "{client} is told as {request:?}"
    );
    Ok(())
}

/// Clients of the access log's requests, in order, all known by the header.
fn assert_logged(agent: &Agent, clients: &[IpAddr]) -> Result<()> {
    let lines = eventually("every request is logged", || {
        let mut lines = agent.access_log()?;
        lines.retain(|line| !line["method"].is_null());
        Ok((lines.len() >= clients.len()).then_some(lines))
    })?;
    ensure!(lines.len() == clients.len(), "{} lines", lines.len());
    for (line, client) in lines.iter().zip(clients) {
        let logged: SocketAddr = line["client"].as_str().context("no client")?.parse()?;
        ensure!(
            logged.ip() == *client && line["evidence"] == "xff" && line["status"] == 200,
            "{client} is logged as {line}"
        );
    }
    Ok(())
}

#[test]
fn two_and_three_proxies_and_a_client_that_forges() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let before = topology.server.enter(Traces::here)?;
        let _web = Web::echo(directory, &topology.server, APPLICATION)?;
        let inner = routes();
        let outer: Vec<Route> = Family::ALL
            .into_iter()
            .zip(inner.iter().zip(OUTER..))
            .map(|(family, ((listen, _), port))| {
                let to = (Gateway::back(family), listen.port()).into();
                (any_of_family(family, port), to)
            })
            .collect();
        let _inner = nginx::forwarding(directory, &topology.gateway, &inner)?;
        let _outer = nginx::forwarding(directory, &topology.gateway, &outer)?;
        // The relay trusts proxies by their count, and by their addresses.
        for (proxies, trusted_hops) in [(1, Some(1)), (2, Some(2)), (1, None), (2, None)] {
            let relays = for_http(relays(&topology.server, "reveal"), trusted_hops);
            let agent = agent(directory, relays)?;
            let mut clients = Vec::new();
            for (family, n) in Family::ALL.into_iter().zip(0..) {
                let port = if proxies == 1 { BALANCER } else { OUTER } + n;
                let url = format!("http://{}/", SocketAddr::new(Gateway::front(family), port));
                for (i, forged) in FORGED.into_iter().enumerate() {
                    let client = family.client(i);
                    let answer = curl(&topology.client, client, &url, &["-H", forged])?;
                    let request = Request::parse(&answer)?;
                    assert_client(&request, client)
                        .with_context(|| format!("{proxies} proxies, {forged}"))?;
                    clients.push(client);
                }
            }
            assert_logged(&agent, &clients)?;
            no_origins(&agent)?;
            ensure!(agent.stop()?.success(), "the agent's exit status");
        }
        before.assert_unchanged(&topology.server.enter(Traces::here)?)
    });
}

#[test]
fn many_clients_share_a_gateways_connection() {
    const CLIENTS: usize = 50;
    const ROUNDS: usize = 3;
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _web = Web::echo(directory, &topology.server, APPLICATION)?;
        let relays = for_http(relays(&topology.server, "reveal"), Some(1));
        let agent = agent(directory, relays)?;
        let _gateway = haproxy::forwarding(directory, &topology.gateway, &routes())?;
        let mut clients = Vec::new();
        let mut ports = BTreeSet::new();
        for _ in 0..ROUNDS {
            for (family, target) in Family::ALL.into_iter().zip(targets()) {
                for client in (0..CLIENTS).map(|n| family.client(n)) {
                    let answer = curl(&topology.client, client, &format!("http://{target}/"), &[])?;
                    let request = Request::parse(&answer)?;
                    assert_client(&request, client)?;
                    ports.insert((client, request.port));
                    clients.push(client);
                }
            }
        }
        assert_logged(&agent, &clients)?;
        for family in Family::ALL {
            let listen = any_of_family(family, relay_of(family).port());
            let name = format!("truepeer_relay_connections_total{{relay=\"{listen}\"}}");
            let connections = agent.metric(&name)?;
            ensure!(connections == 1, "{connections} connections of the gateway");
        }
        // Each client has a connection to the application of its own, which it kept.
        ensure!(
            ports.len() == 2 * CLIENTS,
            "{} connections to the application",
            ports.len()
        );
        Ok(())
    });
}

#[test]
fn http2_and_the_proxy_protocol() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _web = Web::echo(directory, &topology.server, APPLICATION)?;
        let mut relays = for_http(relays(&topology.server, "reveal"), None);
        for relay in &mut relays {
            relay.accept = "proxy";
        }
        let mut config = config(directory, relays)?;
        let trusted = ["203.0.113.77/32", "2001:db8:c::4d/128"];
        config.trust.extend(Trust::sources(trusted));
        let agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let url = format!("http://{}/echo", relay_of(family));
            let body = "x".repeat(300_000);
            let file = directory.join("body");
            std::fs::write(&file, &body)?;
            let data = format!("@{}", file.display());
            let more = ["--http2-prior-knowledge", "--haproxy-protocol"];
            let posted = [&more[..], &["--data-binary", &data]].concat();
            let back = Gateway::back(family);
            ensure!(
                curl(&topology.gateway, back, &url, &posted)? == body,
                "another body"
            );
            let url = format!("http://{}/path?query", relay_of(family));
            let told = Request::parse(&curl(&topology.gateway, back, &url, &more)?)?;
            ensure!(
                told.ip() == back
                    && told.target == "/path?query"
                    && told.header("host") == [relay_of(family).to_string()],
                "{told:?}"
            );

            // What its upstream cannot carry is told as the client's protocol tells it.
            let call = ["-i", "-H", "Content-Type: application/grpc", "-d", ""];
            let told = curl(&topology.gateway, back, &url, &[&more[..], &call].concat())?;
            ensure!(
                told.starts_with("HTTP/2 200") && told.contains("grpc-status: 12"),
                "{told}"
            );

            // The header's client is a proxy that is trusted in its turn, or not.
            for (proxy, is_trusted) in [(client_of(family), true), (family_other(family), false)] {
                let mut client = Client::connect(&topology.gateway, relay_of(family))?;
                client.send(&v2_with_checksum(proxy, relay_of(family)))?;
                let told = client.ask("X-Forwarded-For: 192.0.2.99\r\n")?;
                let expected = match is_trusted {
                    true => "192.0.2.99".parse()?,
                    false => proxy.ip(),
                };
                ensure!(
                    told.ip() == expected
                        && told.header("x-forwarded-for") == [format!("192.0.2.99,{}", proxy.ip())],
                    "{told:?}"
                );
            }
        }
        no_origins(&agent)
    });
}

/// A second client that exists in headers only.
fn family_other(family: Family) -> SocketAddr {
    (family.client(77), 4711).into()
}
