//! unwrap: a PROXY header is taken off in the kernel, and an unmodified server is told the client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use agent_common::proxy::{Endpoints, Peer, write};
use anyhow::{Context, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Trust, Unwrap};
use tests::host::scenario;
use tests::proxies::any;
use tests::servers::report::{Report, Seen};
use tests::topology::{Family, Sidecar};
use tests::wait::SOON;

const PORT: u16 = 8000;

fn agent(directory: &Path, topology: &Sidecar) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config
        .trust
        .extend(Trust::saying(&["proxy"], ["10.77.0.0/24", "fd77::/64"]));
    config
        .unwrap
        .push(Unwrap::new(&topology.pod, Sidecar::INTERFACE, &["8000"]));
    Agent::start(directory, config)
}

fn target(family: Family) -> SocketAddr {
    (Sidecar::address(family), PORT).into()
}

fn connect(topology: &Sidecar, family: Family) -> Result<TcpStream> {
    let stream = topology
        .client
        .enter(|| TcpStream::connect_timeout(&target(family), SOON.here()))?;
    stream.set_read_timeout(Some(SOON.here()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Headers of both versions that name this client.
fn headers(client: SocketAddr, destination: SocketAddr) -> [Vec<u8>; 2] {
    let ends = Endpoints {
        source: client.into(),
        destination: destination.into(),
    };
    let (mut v1, mut v2) = (Vec::new(), Vec::new());
    write::v1(Some(&ends), &mut v1);
    write::v2(&Peer::Proxied(ends), [].into_iter(), false, &mut v2).expect("a short header");
    [v1, v2]
}

fn seen(stream: &mut impl BufRead) -> Result<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("the answer {line:?}"))
}

#[test]
fn header_alone_and_header_with_payload() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let agent = agent(directory, &topology)?;
        for family in Family::ALL {
            let client = SocketAddr::new(family.client(6), 4711);
            let [v1, v2] = headers(client, target(family));
            for (header, payload) in [
                (&v1, &b""[..]),
                (&v1, b"ping\n"),
                (&v2, b""),
                (&v2, b"ping\n"),
            ] {
                let mut stream = BufReader::new(connect(&topology, family)?);
                stream.get_mut().write_all(&[header, payload].concat())?;
                let seen = seen(&mut stream)?;
                ensure!(
                    seen.accepted == client && seen.peername == client,
                    "{seen:?}"
                );
                stream.get_mut().write_all(b"pong\n")?;
                let mut echo = vec![0; payload.len() + 5];
                stream.read_exact(&mut echo)?;
                ensure!(echo == [payload, b"pong\n"].concat(), "{echo:?}");
            }
        }
        no_origins(&agent)
    });
}
