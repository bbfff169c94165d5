//! A pod with Istio's rules and Envoy, and what is asserted of it.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Barrier;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Socket, Type};
use tests::agent::{Agent, Config, Trust};
use tests::clients::load::{Application, Connection, Load};
use tests::host::netns::run;
use tests::host::process::{Process, find};
use tests::host::user::{self, UID};
use tests::proxies::{any, any_of_family, envoy};
use tests::servers::report::Report;
use tests::servers::web::{Web, parse_client};
use tests::topology::istio::{self, passthrough};
use tests::topology::{Family, Sidecar};
use tests::wait::SOON;

const TCP: u16 = 8080;
const HTTP: u16 = 8081;

/// Clients that keep their HTTP connections, and how often each asks.
pub(super) const CLIENTS: usize = 60;

pub(super) const REQUESTS: usize = 10;

/// The pod, its applications and its clients.
pub(super) struct Pod<'a> {
    pub(super) directory: &'a Path,
    pub(super) _web: Web,
    pub(super) _reports: [Report; 2],
    pub(super) sidecar: Sidecar,
}

impl<'a> Pod<'a> {
    pub(super) fn new(directory: &'a Path) -> Result<Self> {
        let sidecar = Sidecar::new()?;
        istio::redirect(&sidecar.pod, directory)?;
        Ok(Self {
            directory,
            _web: Web::nginx(
                directory,
                &sidecar.pod,
                &Family::ALL.map(|family| any_of_family(family, HTTP)),
            )?,
            _reports: [
                Report::start(&sidecar.pod, any(TCP))?,
                Report::start(&sidecar.client, any(TCP))?,
            ],
            sidecar,
        })
    }

    pub(super) fn envoy(
        &self,
        patch: impl FnOnce(&mut Vec<serde_json::Value>) -> Result<()>,
    ) -> Result<Process> {
        envoy::istio(self.directory, &self.sidecar.pod, HTTP, TCP, patch)
    }

    pub(super) fn agent(&self) -> Result<Agent> {
        let mut config = Config::new(self.directory, [])?;
        // Envoy keeps connections to the application.
        config.agent.drain = Some(0);
        config.trust.push(Trust {
            local_source: Family::ALL.map(passthrough).into(),
            ..Trust::uid(UID)
        });
        Agent::start(self.directory, config)
    }

    pub(super) fn load(&self, family: Family) -> Load {
        Load::new([(Sidecar::address(family), TCP).into()])
    }

    /// The application sees 127.0.0.6 or ::6.
    pub(super) fn sees_envoy(&self) -> Result<()> {
        for family in Family::ALL {
            self.load(family).run(&self.sidecar.client).all_lost()?;
            for connection in self.load(family).hold(&self.sidecar.client)? {
                let seen = &connection.seen;
                ensure!(seen.accepted.ip() == passthrough(family), "{seen:?}");
            }
            for (_, seen) in self.ask(family)? {
                ensure!(seen.ip() == passthrough(family), "{seen}");
            }
        }
        Ok(())
    }

    /// The application sees every client's own address, and Envoy keeps connections to it for each.
    pub(super) fn sees_clients(&self) -> Result<()> {
        for family in Family::ALL {
            self.load(family).run(&self.sidecar.client).all_kept()?;
            let answers = self.ask(family)?;
            for (client, seen) in &answers {
                ensure!(seen.ip() == *client, "{client} was seen as {seen}");
            }
            let connections: HashSet<_> = answers.iter().map(|(_, seen)| seen).collect();
            ensure!(
                connections.len() < answers.len() / 2,
                "{} connections for {} requests",
                connections.len(),
                answers.len()
            );
        }
        Ok(())
    }

    /// Every client is told at once that Envoy cannot connect.
    pub(super) fn refuses_clients(&self) -> Result<()> {
        for family in Family::ALL {
            let Err(error) = self.ask(family) else {
                bail!("Envoy connected without the client's address");
            };
            ensure!(format!("{error:#}").contains("HTTP/1.1 503"), "{error:#}");
            let load = Load {
                connections: 10,
                concurrent: 10,
                ..self.load(family)
            };
            let outcome = load.run(&self.sidecar.client);
            ensure!(outcome.failed == load.connections, "{outcome:?}");
        }
        Ok(())
    }

    /// On the wire, connections come from where Istio's rules expect them from.
    pub(super) fn knows_clients(&self, agent: &Agent) -> Result<()> {
        for family in Family::ALL {
            let held = self.load(family).hold(&self.sidecar.client)?;
            let peers = agent.peers()?;
            for connection in &held {
                let peer = peers.0.iter().find(|peer| {
                    peer.client == connection.seen.accepted && peer.local == connection.seen.local
                });
                let peer = peer.with_context(|| format!("no origin for {}", connection.client))?;
                ensure!(
                    peer.evidence == "bind" && peer.remote.ip() == passthrough(family),
                    "{peer:?}"
                );
            }
        }
        Ok(())
    }

    /// The application's own connections go through Envoy, as is seen by their ports.
    pub(super) fn reaches_others(&self) -> Result<()> {
        for (family, other, own) in [
            (Family::V4, "10.77.0.1", "0.0.0.0:0"),
            (Family::V6, "fd77::1", "[::]:0"),
        ] {
            let target = SocketAddr::new(other.parse()?, TCP);
            let connection = self
                .sidecar
                .pod
                .enter(|| Connection::open_from(own.parse()?, target, Application::Report))?;
            let seen = &connection.seen;
            ensure!(
                seen.accepted.ip() == Sidecar::address(family)
                    && seen.accepted.port() != connection.client.port(),
                "{} was seen as {seen:?}",
                connection.client
            );
        }
        Ok(())
    }

    /// An application that calls its own service: Envoy connects to its own pod in no client's name, and
    /// is redirected to itself. The client is the pod.
    pub(super) fn reaches_itself(&self) -> Result<()> {
        for family in Family::ALL {
            let target = SocketAddr::new(Sidecar::address(family), HTTP);
            let curl = find("CURL_BIN", "curl")?;
            let mut curl = user::command(&self.sidecar.pod, UID, curl.as_ref())?;
            let seen = parse_client(&run(curl.args(["-sS", &format!("http://{target}")]))?)?;
            ensure!(seen.ip() == target.ip(), "the pod was seen as {seen}");
        }
        Ok(())
    }

    /// Asks the web server over connections that are kept, from all clients at the same time. Each
    /// answer: who asked, and whom the application saw.
    pub(super) fn ask(&self, family: Family) -> Result<Vec<(IpAddr, SocketAddr)>> {
        let target = (Sidecar::address(family), HTTP).into();
        let all_connected = Barrier::new(CLIENTS);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|n| {
                    let all_connected = &all_connected;
                    scope.spawn(move || {
                        let entered = self.sidecar.client.join();
                        entered.expect("enter the client's namespace");
                        let client = family.client(n);
                        let stream = kept_alive(client, target);
                        all_connected.wait();
                        let mut stream = stream?;
                        (0..REQUESTS)
                            .map(|_| Ok((client, get(&mut stream)?)))
                            .collect::<Result<Vec<_>>>()
                    })
                })
                .collect();
            let answers = clients
                .into_iter()
                .map(|client| client.join().expect("no client panics"));
            Ok(answers.collect::<Result<Vec<_>>>()?.concat())
        })
    }
}

pub(super) fn kept_alive(client: IpAddr, target: SocketAddr) -> Result<BufReader<TcpStream>> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    socket.connect_timeout(&target.into(), SOON.here())?;
    socket.set_read_timeout(Some(SOON.here()))?;
    Ok(BufReader::new(socket.into()))
}

/// One request, after which the connection goes on; whom the application saw.
pub(super) fn get(stream: &mut BufReader<TcpStream>) -> Result<SocketAddr> {
    stream
        .get_mut()
        .write_all(b"GET / HTTP/1.1\r\nHost: application\r\n\r\n")?;
    let mut length = 0;
    let mut status = String::new();
    stream.read_line(&mut status)?;
    ensure!(status.starts_with("HTTP/1.1 200"), "{status:?}");
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => length = value.parse()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    parse_client(std::str::from_utf8(&body)?)
}
