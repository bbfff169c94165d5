//! A trusted HTTP proxy that learns its client from `X-Forwarded-For` and binds to it: each request reaches
//! the application by a connection in the name of its own client.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Trust};
use tests::clients::load;
use tests::host::cgroup::Cgroup;
use tests::host::netns::Netns;
use tests::host::process::Process;
use tests::host::scenario;
use tests::host::user::UID;
use tests::proxies::haproxy::{self, Usesrc};
use tests::proxies::{Route, any, any_v4, envoy, local_routes};
use tests::servers::web::{Web, parse_client};
use tests::topology::{Family, Sidecar};

const APPLICATION: u16 = 8080;
/// The proxy's port for IPv4; the next is for IPv6.
const PROXY: u16 = 15001;
/// How many clients each family has.
const CLIENTS: usize = 100;

#[test]
fn envoy_original_src() {
    scenario(|directory| {
        kept(directory, &Family::ALL, |pod, routes| {
            envoy::http_binding(directory, pod, UID, routes)
        })
    });
}

/// HAProxy takes IPv4 addresses only from a header.
#[test]
fn haproxy_usesrc_hdr_ip() {
    scenario(|directory| {
        kept(directory, &[Family::V4], |pod, routes| {
            haproxy::http(directory, pod, Some(Usesrc::HdrIp), routes)
        })
    });
}

/// The proxy is trusted by its user or by its cgroup.
fn kept(
    directory: &Path,
    families: &[Family],
    proxy: impl Fn(&Netns, &[Route]) -> Result<Process>,
) -> Result<()> {
    let sidecar = Sidecar::new()?;
    let listen = [any_v4(APPLICATION), any(APPLICATION)];
    let _application = Web::nginx(directory, &sidecar.pod, &listen)?;
    let cgroup = Cgroup::new("proxy")?;
    let mut config = Config::new(directory, [])?;
    config.trust.push(Trust::cgroup(cgroup.path()));
    config.trust.push(Trust::uid(UID));
    let agent = Agent::start(directory, config)?;
    let routes = local_routes(PROXY, APPLICATION);
    let proxy = cgroup.run(|| proxy(&sidecar.pod, &routes))?;
    sidecar.client.enter(|| -> Result<()> {
        for n in 0..CLIENTS {
            for (family, target) in families.iter().zip(Sidecar::targets(PROXY)) {
                let client = family.client(n);
                // Another host's address: the gateway's that wrote the header.
                let gateway = SocketAddr::new(family.client(CLIENTS + n), 0);
                let answer = ask(gateway, target, &client.to_string())?;
                let seen = parse_client(&answer)?;
                ensure!(seen.ip() == client, "{client} was seen as {seen}");
            }
        }
        Ok(())
    })?;
    proxy.stop()?;
    no_origins(&agent)
}

/// The body of the answer to a request that was forwarded for this client, who forged another.
fn ask(source: SocketAddr, target: SocketAddr, client: &str) -> Result<String> {
    let mut stream = load::connect(source, target)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: application\r\nX-Forwarded-For: 192.0.2.9, {client}\r\n\
         Connection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(body.to_owned())
}
