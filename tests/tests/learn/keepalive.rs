//! Many HTTP clients with lasting connections share a trusted proxy: each request reaches the
//! application by a connection in its own client's name.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Trust};
use tests::clients::load;
use tests::host::cgroup::Cgroup;
use tests::host::netns::Netns;
use tests::host::process::Process;
use tests::host::scenario;
use tests::host::user::UID;
use tests::proxies::haproxy::{self, Usesrc};
use tests::proxies::{Route, any, any_v4, local_routes, nginx};
use tests::servers::web::{Web, parse_client};
use tests::topology::{Family, Sidecar};

const APPLICATION: u16 = 8080;
/// The proxy's port for IPv4; the next is for IPv6.
const PROXY: u16 = 15001;
/// Client addresses of each family.
const CLIENTS: usize = 50;
const ROUNDS: usize = 10;

/// HAProxy keeps connections for further requests of the same client address.
#[test]
fn haproxy_usesrc_clientip() {
    scenario(|directory| {
        let kept = haproxy(directory, Usesrc::ClientIp)?;
        ensure!(kept.connections() < kept.0.len(), "none was used again");
        Ok(())
    });
}

/// HAProxy keeps connections for further requests of the same client's connection.
#[test]
fn haproxy_usesrc_client() {
    scenario(|directory| {
        let kept = haproxy(directory, Usesrc::Client)?;
        // A client keeps some connections for all rounds, and the others for one.
        let connections = 2 * CLIENTS * (1 + ROUNDS);
        ensure!(
            kept.connections() <= connections && kept.0.iter().all(|(client, seen)| client == seen),
            "expected at most {connections} connections, with the client's port, got {kept:?}"
        );
        Ok(())
    });
}

/// nginx has a connection for each request.
#[test]
fn nginx_proxy_bind() {
    scenario(|directory| {
        let start = |pod: &Netns, is_binding: bool, routes: &[Route]| {
            if is_binding {
                nginx::http_binding(directory, pod, UID, routes)
            } else {
                nginx::http(directory, pod, routes)
            }
        };
        lost_and_kept(directory, start).map(drop)
    });
}

/// An ordinary HAProxy lets clients share connections; one that binds keeps them apart.
fn haproxy(directory: &Path, usesrc: Usesrc) -> Result<Seen> {
    lost_and_kept(directory, |pod, is_binding, routes| {
        haproxy::http(directory, pod, is_binding.then_some(usesrc), routes)
    })
}

/// What the application saw behind the trusted proxy; behind the ordinary one it saw the proxy.
fn lost_and_kept(
    directory: &Path,
    proxy: impl Fn(&Netns, bool, &[Route]) -> Result<Process>,
) -> Result<Seen> {
    let sidecar = Sidecar::new()?;
    let pod = &sidecar.pod;
    let listen = [any_v4(APPLICATION), any(APPLICATION)];
    let _application = Web::nginx(directory, pod, &listen)?;
    let routes = local_routes(PROXY, APPLICATION);
    let ordinary = proxy(pod, false, &routes)?;
    let lost = ask(&sidecar)?;
    ensure!(
        lost.0.iter().all(|(_, seen)| seen.ip().is_loopback()),
        "without truepeer: {lost:?}"
    );
    ordinary.stop()?;

    let cgroup = Cgroup::new("proxy")?;
    let mut config = Config::new(directory, [])?;
    config.trust.push(Trust::cgroup(cgroup.path()));
    let agent = Agent::start(directory, config)?;
    let binding = cgroup.run(|| proxy(pod, true, &routes))?;
    let kept = ask(&sidecar)?;
    for (client, seen) in &kept.0 {
        ensure!(client.ip() == seen.ip(), "{client} was seen as {seen}");
    }
    binding.stop()?;
    no_origins(&agent)?;
    Ok(kept)
}

/// Of each request, the client and whom the application saw.
#[derive(Debug)]
struct Seen(Vec<(SocketAddr, SocketAddr)>);

impl Seen {
    /// How many connections the application had.
    fn connections(&self) -> usize {
        let seen: BTreeSet<_> = self.0.iter().map(|(_, seen)| seen).collect();
        seen.len()
    }
}

/// Each client address has a connection that lasts, and in each round another that does not.
fn ask(sidecar: &Sidecar) -> Result<Seen> {
    sidecar.client.enter(|| {
        let open = || -> Result<Vec<Client>> {
            (0..CLIENTS)
                .flat_map(|n| {
                    let targets = Sidecar::targets(PROXY);
                    let clients = Family::ALL.map(|family| family.client(n));
                    clients.into_iter().zip(targets)
                })
                .map(|(client, target)| Client::open(client, target))
                .collect()
        };
        let mut lasting = open()?;
        let mut seen = Vec::new();
        for _ in 0..ROUNDS {
            let mut once = open()?;
            for client in lasting.iter_mut().chain(&mut once) {
                client.send()?;
            }
            for client in lasting.iter_mut().chain(&mut once) {
                seen.push((client.address, client.receive()?));
            }
        }
        Ok(Seen(seen))
    })
}

/// A client's HTTP connection.
struct Client {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

impl Client {
    fn open(source: IpAddr, target: SocketAddr) -> Result<Self> {
        let stream = load::connect((source, 0).into(), target)?;
        Ok(Self {
            address: stream.local_addr()?,
            stream: BufReader::new(stream),
        })
    }

    fn send(&mut self) -> Result<()> {
        let request = b"GET / HTTP/1.1\r\nHost: application\r\n\r\n";
        Ok(self.stream.get_mut().write_all(request)?)
    }

    /// Whom the application saw.
    fn receive(&mut self) -> Result<SocketAddr> {
        let mut length = None;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = Some(value.parse()?);
            }
        }
        let mut body = vec![0; length.context("an answer without a length")?];
        self.stream.read_exact(&mut body)?;
        parse_client(str::from_utf8(&body)?)
    }
}
