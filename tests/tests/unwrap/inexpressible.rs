//! A header that names an IPv6 client to a server with an IPv4 socket, which cannot be told.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::{Agent, Reveal};
use tests::clients::tcp::{assert_reset, connect, seen};
use tests::host::scenario;
use tests::proxies::proxy_header::{v1, v2};
use tests::proxies::{any, any_v4};
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use crate::stage::in_pod;

/// Of a server with an IPv4 socket; the next port is of one with a dual-stack socket.
const PORT: u16 = 8080;

/// Sends a header that names this client.
fn send(
    sidecar: &Sidecar,
    header: fn(SocketAddr, SocketAddr) -> Vec<u8>,
    client: SocketAddr,
    port: u16,
) -> Result<TcpStream> {
    let target = (Sidecar::address(Family::V4), port).into();
    let mut stream = connect(&sidecar.client, target)?;
    // The addresses of a header have one IP version.
    let named = (Sidecar::address(Family::of(client)), port).into();
    stream.write_all(&header(client, named))?;
    Ok(stream)
}

#[test]
fn is_refused_or_passes() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _reports = [
            Report::start(&sidecar.pod, any_v4(PORT))?,
            Report::start(&sidecar.pod, any(PORT + 1))?,
        ];
        let [v4, v6] = Family::ALL.map(|family| SocketAddr::from((family.client(6), 4711)));
        let mut config = in_pod(directory, &sidecar, &["8080-8081"])?;
        let agent = Agent::start(directory, config.clone())?;
        for cookies in ["0", "2"] {
            let pod = &sidecar.pod;
            pod.set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
            for header in [v1, v2] {
                for (client, port) in [(v4, PORT), (v4, PORT + 1), (v6, PORT + 1)] {
                    let told = seen(&mut send(&sidecar, header, client, port)?)?.accepted;
                    ensure!(told == client, "{client} on port {port} is told as {told}");
                }
                let (before, logged) = (
                    agent.counter(Counter::UnwrapInexpressible)?,
                    agent.access_log()?.len(),
                );
                assert_reset(send(&sidecar, header, v6, PORT)?, "an IPv6 client")?;
                let counted = agent.counter(Counter::UnwrapInexpressible)? - before;
                ensure!(counted == 1, "{counted}");
                let line = eventually("the refusal is logged", || {
                    let mut lines = agent.access_log()?.split_off(logged);
                    lines.retain(|line| line["refused"] == "inexpressible");
                    Ok(lines.pop())
                })?;
                ensure!(
                    line["client"] == v6.to_string() && line["evidence"] == "proxy",
                    "{line}"
                );
            }
        }
        config.reveal = Reveal {
            inexpressible: Some("pass"),
            ..Reveal::default()
        };
        agent.reload(&config)?;
        let mut stream = send(&sidecar, v2, v6, PORT)?;
        let told = seen(&mut stream)?.accepted;
        ensure!(told == stream.local_addr()?, "told as {told}");
        Ok(())
    });
}
