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
use tests::proxies::proxy_header::{v2, with_tlv};
use tests::proxies::{any, any_v4};
use tests::servers::report::Report;
use tests::servers::web::{Web, parse_client};
use tests::topology::{Family, Sidecar};
use tests::wait::{Limit, eventually};

use crate::stage::in_pod;

const PORT: u16 = 8080;
const NGINX: u16 = 8081;
/// What comes between header and request: less and more than it takes to repeat a segment.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(700),
    Duration::from_secs(3),
];
/// How long an answer may take. A server that waits for what it never gets takes ten times as long.
const ANSWER: Limit = Limit::secs(2);

/// Apache defers its `accept()` until there is payload (TCP_DEFER_ACCEPT, by its `AcceptFilter`); nginx does if told to.
#[test]
fn a_server_that_defers() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _apache = Web::apache(directory, pod, PORT)?;
        let _nginx = Web::nginx_deferred(directory, pod, &[any_v4(NGINX), any(NGINX)])?;
        let agent = Agent::start(directory, in_pod(directory, &sidecar, &["8080-8081"])?)?;
        let ask = |family: Family, port: u16, tlv: Option<usize>, pause: Duration| -> Result<()> {
            let client = SocketAddr::new(family.client(6), 4711);
            let target = SocketAddr::new(Sidecar::address(family), port);
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
        let ask = &ask;
        std::thread::scope(|scope| {
            let mut all = Vec::new();
            for family in Family::ALL {
                for port in [PORT, NGINX] {
                    // Some of them are translated, as these lengths are not the usual one.
                    for tlv in [None, Some(9)] {
                        all.extend(PAUSES.map(|pause| {
                            scope.spawn(move || {
                                let what = format!("{family:?}, {port}, {tlv:?}, {pause:?}");
                                ask(family, port, tlv, pause).context(what)
                            })
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
