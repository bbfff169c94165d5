//! The relay and a real Envoy take the same requests: the upstream has to see the same headers, and the
//! client that Envoy logs is the relay's.

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::Value;
use tests::agent::{Agent, Trust};
use tests::balancer::{APPLICATION, SOURCES, agent, config, relay_of, relays};
use tests::clients::http::{Client, Request};
use tests::host::scenario;
use tests::proxies::{any_of_family, envoy};
use tests::servers::web::Web;
use tests::topology::{Family, Gateway};
use tests::wait::eventually;

use crate::stage::for_http;

/// Envoy's port for IPv4; the next is for IPv6.
const ENVOY: u16 = 9200;
/// The prefixes that are trusted besides the gateway's own addresses.
const TRUSTED: [&str; 2] = ["10.0.0.0/8", "fd00::/8"];

/// The headers of the requests that come in. Entries with ports or brackets are not among them: Envoy does not read them.
const VARIANTS: [&str; 37] = [
    "",
    "X-Forwarded-For: 203.0.113.7\r\n",
    "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n",
    "X-Forwarded-For: 6.6.6.6,203.0.113.7,10.1.1.1\r\n",
    "X-Forwarded-For: 6.6.6.6 , \t203.0.113.7 , 10.1.1.1 \r\n",
    "X-Forwarded-For: 10.2.2.2, 10.1.1.1\r\n",
    "X-Forwarded-For: 2001:db8::7\r\n",
    "X-Forwarded-For: 2001:DB8:0:0:0::7, fd00::1\r\n",
    "X-Forwarded-For: ::ffff:203.0.113.7\r\n",
    "X-Forwarded-For: ::ffff:10.1.1.1, ::ffff:10.1.1.1\r\n",
    "X-Forwarded-For: 203.0.113.7, ::1\r\n",
    "X-Forwarded-For: 127.0.0.1\r\n",
    "X-Forwarded-For: 0.0.0.0\r\n",
    "X-Forwarded-For: 255.255.255.255\r\n",
    "X-Forwarded-For: \"203.0.113.7\"\r\n",
    "X-Forwarded-For: unknown\r\n",
    "X-Forwarded-For: unknown, 203.0.113.7\r\n",
    "X-Forwarded-For: 203.0.113.7, unknown\r\n",
    "X-Forwarded-For: 203.0.113.7, unknown, 10.1.1.1\r\n",
    "X-Forwarded-For: 203.0.113.07\r\n",
    "X-Forwarded-For: 203.0.113\r\n",
    "X-Forwarded-For: 0x7f.1\r\n",
    "X-Forwarded-For: 3405803783\r\n",
    "X-Forwarded-For:\r\n",
    "X-Forwarded-For: ,\r\n",
    "X-Forwarded-For: 203.0.113.7,\r\n",
    "X-Forwarded-For: ,203.0.113.7\r\n",
    "X-Forwarded-For: 203.0.113.7,,10.1.1.1\r\n",
    "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.7\r\n",
    "X-Forwarded-For: 6.6.6.6\r\nAccept: x\r\nx-forwarded-for: 203.0.113.7, 10.1.1.1\r\n",
    "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For:\r\n",
    "X-Forwarded-For:\r\nX-Forwarded-For: 203.0.113.7\r\n",
    "X-Forwarded-For: 1.1.1.1,2.2.2.2,10.0.0.3,10.0.0.4,10.0.0.5,10.0.0.6,10.0.0.7,10.0.0.8,10.0.0.9,\
     10.0.0.10,10.0.0.11,10.0.0.12,10.0.0.13,10.0.0.14,10.0.0.15,10.0.0.16,10.0.0.17,10.0.0.18,\
     10.0.0.19,10.0.0.20\r\n",
    "X-Forwarded-For: 0.0.0.1,1.1.1.1,2.2.2.2,10.0.0.3,10.0.0.4,10.0.0.5,10.0.0.6,10.0.0.7,10.0.0.8,\
     10.0.0.9,10.0.0.10,10.0.0.11,10.0.0.12,10.0.0.13,10.0.0.14,10.0.0.15,10.0.0.16,10.0.0.17,\
     10.0.0.18,10.0.0.19,10.0.0.20\r\n",
    "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n",
    "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Envoy-Internal: true\r\n",
    "X-Envoy-External-Address: 6.6.6.6\r\nX-Envoy-Internal: true\r\n",
];

/// Headers of the client's address; the last one only Envoy at the edge sets.
const COMPARED: [&str; 6] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-envoy-internal",
    "x-envoy-external-address",
];

#[test]
fn by_count() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _web = Web::echo(directory, &topology.server, APPLICATION)?;
        for hops in 0..=3 {
            let relays = for_http(relays(&topology.server, "reveal"), Some(hops));
            let agent = agent(directory, relays)?;
            let envoy = envoy::http(directory, &topology.server, Ok(hops), &routes())?;
            compare(&topology, &agent, &COMPARED).with_context(|| format!("{hops} hops"))?;
            envoy.stop()?;
            ensure!(agent.stop()?.success(), "the agent's exit status");
        }
        Ok(())
    });
}

#[test]
fn by_prefixes() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _web = Web::echo(directory, &topology.server, APPLICATION)?;
        let prefixes: Vec<IpNet> = SOURCES
            .iter()
            .chain(&TRUSTED)
            .map(|prefix| prefix.parse())
            .collect::<Result<_, _>>()?;
        let relays = for_http(relays(&topology.server, "reveal"), None);
        let mut config = config(directory, relays)?;
        config.trust.extend(Trust::sources(TRUSTED));
        let agent = Agent::start(directory, config)?;
        let _envoy = envoy::http(directory, &topology.server, Err(&prefixes), &routes())?;
        compare(&topology, &agent, &COMPARED[..5])
    });
}

fn routes() -> Vec<tests::proxies::Route> {
    let routes = Family::ALL.into_iter().zip(ENVOY..);
    routes
        .map(|(family, port)| {
            let application = (family.localhost(), APPLICATION).into();
            (any_of_family(family, port), application)
        })
        .collect()
}

/// Sends each variant by both ways. Each request has a line of its own in the access log.
fn compare(topology: &Gateway, agent: &Agent, headers: &[&str]) -> Result<()> {
    let mut clients = Vec::new();
    for (family, port) in Family::ALL.into_iter().zip(ENVOY..) {
        let mut to_relay = Client::connect(&topology.gateway, relay_of(family))?;
        let envoy = (Gateway::server(family), port).into();
        let mut to_envoy = Client::connect(&topology.gateway, envoy)?;
        for variant in VARIANTS {
            let expected = to_envoy.ask(variant).context(variant)?;
            let request = to_relay.ask(variant).context(variant)?;
            for name in headers {
                let (expected, got) = (expected.header(name), request.header(name));
                ensure!(
                    got == expected,
                    "{variant:?}: {name} is {got:?}, Envoy's is {expected:?}"
                );
            }
            clients.push(told(&request, &expected).with_context(|| format!("{variant:?}"))?);
        }
    }
    let logged = eventually("every request is logged", || {
        let mut lines = agent.access_log()?;
        lines.retain(|line| line["method"] == "GET");
        Ok((lines.len() >= clients.len()).then_some(lines))
    })?;
    let logged: Vec<_> = logged.iter().map(client_of_line).collect::<Result<_>>()?;
    ensure!(logged == clients, "{logged:?} instead of {clients:?}");
    Ok(())
}

/// The client, by each way in which the relay tells it, and as Envoy tells it.
fn told(request: &Request, expected: &Request) -> Result<String> {
    let client = request.header("x-envoy-external-address").concat();
    let by_envoy = expected.header("x-client").concat();
    ensure!(client == by_envoy, "{client} is {by_envoy} to Envoy");
    let forwarded = request.header("forwarded").concat();
    let node = match client.contains(':') {
        true => format!("for=\"[{client}]\""),
        false => format!("for={client}"),
    };
    ensure!(forwarded.starts_with(&node), "{forwarded}");
    let ip = client.parse::<std::net::IpAddr>()?.to_canonical();
    ensure!(
        request.ip() == ip,
        "accept() told {} instead of {ip}",
        request.ip()
    );
    Ok(ip.to_string())
}

/// The address in a line; the evidence is `xff` where the header told, which has no port.
fn client_of_line(line: &Value) -> Result<String> {
    let client: std::net::SocketAddr = line["client"].as_str().context("no client")?.parse()?;
    let evidence = if client.port() == 0 { "xff" } else { "wire" };
    ensure!(line["evidence"] == evidence, "{line}");
    Ok(client.ip().to_string())
}
