//! A network that loses, delays, duplicates and reorders, by the kernel's own emulator.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::agent::records::{no_origins, none_refused};
use tests::agent::{Agent, Config, Steer, Trust, Unwrap};
use tests::clients::exchange::{serve, with_server};
use tests::clients::load::Load;
use tests::clients::tcp::connect;
use tests::host::listener::Listener;
use tests::host::netns::run;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::proxies::proxy_header::{v1, v2, with_tlv};
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};

use crate::stage::{HEADER, MARK, PROXY, REPORT};

/// 2.6 MB each way on each of six connections.
const BLOCKS: u64 = 40;

/// The server takes headers off, and steers to a proxy, behind a router whose two interfaces treat packets this way.
fn behind(impairment: &str) {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        for device in [Gateway::FRONT, Gateway::BACK] {
            run(gateway
                .gateway
                .command("tc")?
                .args(["qdisc", "add", "dev", device, "root", "netem"])
                .args(impairment.split_whitespace()))?;
        }
        let agent = agent(directory, &gateway)?;
        let _server = Listener::start(&gateway.server, any(HEADER), false, serve)?;
        let _report = Report::start(&gateway.server, any(REPORT))?;
        let _proxy = Proxy::sidecar(&gateway.server, any(PROXY), MARK)?;
        for family in Family::ALL {
            let target: SocketAddr = (Gateway::server(family), HEADER).into();
            let client = SocketAddr::new(family.client(6), 4711);
            for header in [
                v2(client, target),
                with_tlv(client, target, Some(100)),
                v1(client, target),
            ] {
                let stream = connect(&gateway.client, target)?;
                let seen = with_server(stream, &header, BLOCKS)
                    .with_context(|| format!("{target}, a header of {}", header.len()))?;
                ensure!(seen == client, "{client} was seen as {seen}");
            }
            let load = Load {
                connections: 100,
                concurrent: 20,
                ..Load::new([(Gateway::server(family), REPORT).into()])
            };
            load.run(&gateway.client).all_kept()?;
        }
        ensure!(dropped_or_more(&gateway)?, "the network was harmless");
        none_refused(&agent)?;
        no_origins(&agent)
    });
}

fn agent(directory: &Path, gateway: &Gateway) -> Result<Agent> {
    let server = &gateway.server;
    let steer = Steer::new("in", server, &["8080"], PROXY).on("eth0");
    let mut config = Config::new(directory, [steer])?;
    config
        .trust
        .extend(Trust::sources(["10.77.0.0/24", "fd77::/64"]));
    config.unwrap.push(Unwrap::new(server, "eth0", &["8443"]));
    Agent::start(directory, config)
}

/// Whether TCP noticed what the network does: segments out of order, sent twice or come twice, or late.
fn dropped_or_more(gateway: &Gateway) -> Result<bool> {
    let counters = [
        "TCPOFOQueue",
        "TCPDSACKRecv",
        "TCPSackRecovery",
        "TCPTimeouts",
    ];
    for counter in counters {
        if gateway.client.tcp_counter(counter)? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn loss() {
    behind("loss 1%");
}

#[test]
fn duplication() {
    behind("duplicate 10%");
}

#[test]
fn reordering() {
    behind("delay 2ms reorder 25% 50%");
}

#[test]
fn delay_that_varies() {
    behind("delay 3ms 2ms distribution normal loss 0.2%");
}
