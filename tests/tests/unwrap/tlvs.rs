//! What PROXY headers that are taken off in the kernel say besides addresses.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::agent::Agent;
use tests::agent::records::{no_origins, none_refused};
use tests::clients::tcp::connect;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::{telling, told, v2, with_tlv};
use tests::servers::report::{Report, Seen};
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use crate::stage::in_pod;

const PORT: u16 = 8080;

fn ends(family: Family) -> (SocketAddr, SocketAddr) {
    let client = SocketAddr::new(family.client(6), 4711);
    (client, SocketAddr::new(Sidecar::address(family), PORT))
}

/// A connection that begins with this header; the server has seen its client.
fn begun(sidecar: &Sidecar, family: Family, header: &[u8]) -> Result<TcpStream> {
    let (client, target) = ends(family);
    let mut stream = connect(&sidecar.client, target)?;
    stream.write_all(header)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let seen: Seen = serde_json::from_str(&line)?;
    ensure!(seen.accepted == client, "{seen:?}");
    Ok(stream)
}

/// What the agent shows of a connection's header.
fn shown(agent: &Agent, stream: &TcpStream) -> Result<Value> {
    let (own, target) = (stream.local_addr()?, stream.peer_addr()?);
    let peers = agent.peers()?;
    Ok(peers.find(target, own).context("no origin")?.proxy.clone())
}

#[test]
fn what_a_header_says_is_shown() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _report = Report::start(&sidecar.pod, any(PORT))?;
        let agent = Agent::start(directory, in_pod(directory, &sidecar, &["8080"])?)?;
        for cookies in ["0", "2"] {
            sidecar.pod.set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
            for family in Family::ALL {
                let (client, target) = ends(family);
                let logged = agent.access_log()?.len();
                // The first may be translated, the second is not.
                for _ in 0..2 {
                    let stream = begun(&sidecar, family, &telling(client, target))?;
                    let own = stream.local_addr()?;
                    let peer = agent.ask_inside(&sidecar.pod, target, own)?;
                    ensure!(peer.proxy == told(), "{peer:?}");
                    let shown = shown(&agent, &stream)?;
                    ensure!(shown == told(), "{shown}");
                    drop(stream);
                }
                // A header that has nothing but padding, and one without TLVs.
                for header in [with_tlv(client, target, Some(9)), v2(client, target)] {
                    let stream = begun(&sidecar, family, &header)?;
                    let shown = shown(&agent, &stream)?;
                    ensure!(shown.is_null(), "{shown}");
                }
                let lines = eventually("lines in the log", || {
                    let lines = agent.access_log()?.split_off(logged);
                    Ok((lines.len() == 4).then_some(lines))
                })?;
                let logged: Vec<_> = lines.iter().map(|line| line["proxy"].clone()).collect();
                ensure!(
                    logged == [told(), told(), Value::Null, Value::Null],
                    "{logged:?}"
                );
            }
        }
        none_refused(&agent)?;
        no_origins(&agent)
    });
}

/// The next agent knows the headers that came while there was none.
#[test]
fn agent_killed_and_started() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _report = Report::start(&sidecar.pod, any(PORT))?;
        let agent = Agent::start(directory, in_pod(directory, &sidecar, &["8080"])?)?;
        let config = agent.kill()?;
        let mut streams = Vec::new();
        for family in Family::ALL {
            let (client, target) = ends(family);
            streams.push(begun(&sidecar, family, &telling(client, target))?);
        }
        let agent = Agent::start(directory, config)?;
        for stream in &streams {
            let shown = shown(&agent, stream)?;
            ensure!(shown == told(), "{shown}");
        }
        drop(streams);
        no_origins(&agent)
    });
}

/// An agent that stands still holds up no connection.
#[test]
fn agent_stands_still() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _report = Report::start(&sidecar.pod, any(PORT))?;
        let agent = Agent::start(directory, in_pod(directory, &sidecar, &["8080"])?)?;
        agent.signal(Signal::SIGSTOP)?;
        let (client, target) = ends(Family::V4);
        // More than the ring buffer has room for.
        let header = telling(client, target);
        let stood = (0..(2 << 20) / header.len())
            .try_for_each(|_| begun(&sidecar, Family::V4, &header).map(drop));
        agent.signal(Signal::SIGCONT)?;
        stood?;
        let lost = agent.counter(Counter::HeadersLost)?;
        ensure!(lost > 0, "all headers found room");
        eventually("the ring buffer has room again", || {
            let stream = begun(&sidecar, Family::V4, &header)?;
            Ok((shown(&agent, &stream)? == told()).then_some(()))
        })?;
        none_refused(&agent)
    });
}
