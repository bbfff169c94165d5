//! unwrap: a PROXY header is taken off in the kernel, and an unmodified server is told the client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use agent_common::{
    Counter,
    proxy::{Endpoints, Peer, write},
};
use anyhow::{Context, Result, ensure};
use tests::agent::{Agent, Config, Unwrap};
use tests::check::no_origins;
use tests::host::scenario;
use tests::proxy::any;
use tests::report::{Report, Seen};
use tests::topology::{Family, Sidecar};

const PORT: u16 = 8000;
const TIMEOUT: Duration = Duration::from_secs(5);

fn agent(directory: &Path, topology: &Sidecar) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.sources = vec!["10.77.0.0/24".into(), "fd77::/64".into()];
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
        .enter(|| TcpStream::connect_timeout(&target(family), TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A header of version 2 that names this client.
fn header(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let ends = Endpoints {
        source: client.into(),
        destination: destination.into(),
    };
    let mut header = Vec::new();
    write::v2(&Peer::Proxied(ends), [].into_iter(), false, &mut header).expect("a short header");
    header
}

fn seen(stream: &TcpStream) -> Result<Seen> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("the answer {line:?}"))
}

#[test]
fn header_alone_and_header_with_payload() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let agent = agent(directory, &topology)?;
        for family in Family::ALL {
            for payload in [&b""[..], b"ping\n"] {
                let client = SocketAddr::new(family.client(6), 4711);
                let mut stream = connect(&topology, family)?;
                stream.write_all(&[&header(client, target(family)), payload].concat())?;
                let seen = seen(&stream)?;
                ensure!(
                    seen.accepted == client && seen.peername == client,
                    "{seen:?}"
                );
                stream.write_all(b"pong\n")?;
                let mut echo = vec![0; payload.len() + 5];
                stream.read_exact(&mut echo)?;
                ensure!(echo == [payload, b"pong\n"].concat(), "{echo:?}");
            }
        }
        no_origins(&agent)
    });
}
