//! Headers and payload that come when the server least expects them.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use tests::agent::Agent;
use tests::agent::records::{no_origins, none_refused};
use tests::clients::load::get;
use tests::clients::tcp::{assert_reset, connect};
use tests::host::netns::run;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::{v2, with_tlv};
use tests::servers::report::Report;
use tests::servers::web::{Web, parse_client};
use tests::topology::{Family, Sidecar};
use tests::wait::{Limit, eventually};

use crate::stage::in_pod;

const PORT: u16 = 8080;
/// What comes between header and request: less and more than it takes to repeat a segment.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(700),
    Duration::from_secs(3),
];
/// How long an answer may take. A server that waits for what it never gets takes ten times as long.
const ANSWER: Limit = Limit::secs(2);

/// Apache defers its `accept()` until there is payload (TCP_DEFER_ACCEPT, by its `AcceptFilter`).
#[test]
fn a_server_that_defers() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _web = Web::apache(directory, &sidecar.pod, PORT)?;
        let agent = Agent::start(directory, in_pod(directory, &sidecar, &["8080"])?)?;
        let ask = |family: Family, tlv: Option<usize>, pause: Duration| -> Result<()> {
            let client = SocketAddr::new(family.client(6), 4711);
            let target = SocketAddr::new(Sidecar::address(family), PORT);
            let mut stream = connect(&sidecar.client, target)?;
            stream.write_all(&with_tlv(client, target, tlv))?;
            std::thread::sleep(pause);
            let asked = Instant::now();
            let told = parse_client(&get(&stream)?)?;
            let took = asked.elapsed();
            ensure!(told == client, "{client} is told as {told}");
            ensure!(took < ANSWER.here(), "answered after {took:?}; {ANSWER}");
            Ok(())
        };
        std::thread::scope(|scope| {
            let mut all = Vec::new();
            for family in Family::ALL {
                // Some of them are translated, as these lengths are not the usual one.
                for tlv in [None, Some(9)] {
                    for pause in PAUSES {
                        all.push(scope.spawn(move || {
                            let what = format!("{family:?}, {tlv:?}, {pause:?}");
                            ask(family, tlv, pause).context(what)
                        }));
                    }
                }
            }
            let ended = all.into_iter().map(|one| one.join().expect("no panic"));
            ended.fold(Ok(()), Result::and)
        })?;
        none_refused(&agent)?;
        no_origins(&agent)
    });
}

/// A header that comes when the server has given the handshake up is refused, and that is told.
#[test]
fn a_server_that_has_given_up() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        // By default, it waits for a minute.
        pod.set_sysctl("net/ipv4/tcp_synack_retries", "1")?;
        let _report = Report::start(pod, any(PORT))?;
        let agent = Agent::start(directory, in_pod(directory, &sidecar, &["8080"])?)?;
        let target = |family| SocketAddr::new(Sidecar::address(family), PORT);
        let connected = Family::ALL.map(|family| connect(&sidecar.client, target(family)));
        eventually("the server gives the handshakes up", || {
            let half_open = run(pod.command("ss")?.args(["-Hnt", "state", "syn-recv"]))?;
            Ok(half_open.trim().is_empty().then_some(()))
        })?;
        for (stream, family) in connected.into_iter().zip(Family::ALL) {
            let mut stream = stream?;
            let client = SocketAddr::new(family.client(6), 4711);
            stream.write_all(&v2(client, target(family)))?;
            assert_reset(stream, "a late header")?;
        }
        let late = agent.counter(Counter::UnwrapLate)?;
        ensure!(late == 2, "{late} are counted");
        eventually("both are logged", || {
            let mut lines = agent.access_log()?;
            lines.retain(|line| line["refused"] == "late_header");
            Ok((lines.len() == 2).then_some(()))
        })
    });
}
