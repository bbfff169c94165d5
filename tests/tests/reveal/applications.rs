//! Applications that do with their connections what applications may do, behind a trusted proxy that
//! binds to the client's address and port.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use socket2::SockRef;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Trust};
use tests::clients::load::Load;
use tests::host::cgroup::Cgroup;
use tests::host::netns::Netns;
use tests::host::process::{Process, find};
use tests::host::scenario;
use tests::host::user::UID;
use tests::proxies::own::{Proxy, connect_from};
use tests::proxies::{Route, any, local_routes};
use tests::roles::proxy;
use tests::servers::report::{Report, Seen};
use tests::servers::uring::{Accept, Uring};
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

const PLAYGROUND: &str = env!("CARGO_BIN_EXE_playground");
const APPLICATION: u16 = 8080;
/// Another application.
const REPORT: u16 = 8081;
/// The proxy's port for IPv4; the next is for IPv6.
const PROXY: u16 = 15001;
/// The proxy's port for the other application.
const REPORT_PROXY: u16 = 15003;
const NO_MARK: u32 = 0;

#[test]
fn accept_by_io_uring() {
    io_uring(Accept::Once);
}

#[test]
fn accept_by_a_kernel_thread_of_io_uring() {
    io_uring(Accept::OnceByKernelThread);
}

#[test]
fn accept_all_by_io_uring() {
    io_uring(Accept::Multishot);
}

fn io_uring(accept: Accept) {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _application = Uring::start(&sidecar.pod, any(APPLICATION), accept)?;
        let routes = local_routes(PROXY, APPLICATION);
        lost(&sidecar, &routes, Sidecar::targets(PROXY))?;
        let agent = kept(directory, &sidecar, &routes, Sidecar::targets(PROXY))?;
        let made = Load::new(Sidecar::targets(PROXY)).connections;
        // Whichever thread of the kernel accepted it, it is this process's connection.
        eventually("all are in the access log", || {
            let lines = agent.access_log()?;
            let others = lines.iter().find(|line| line["pid"] != std::process::id());
            ensure!(others.is_none(), "{others:?}");
            Ok((lines.len() == made).then_some(()))
        })
    });
}

#[test]
fn fork_after_listen() {
    script("forks");
}

#[test]
fn pass_the_socket_to_another_process() {
    script("passes");
}

fn script(what: &str) {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _application = application(directory, &sidecar.pod, what, &[])?;
        let routes = local_routes(PROXY, APPLICATION);
        lost(&sidecar, &routes, Sidecar::targets(PROXY))?;
        kept(directory, &sidecar, &routes, Sidecar::targets(PROXY)).map(drop)
    });
}

/// To a server elsewhere, which has a client's address, and to one behind the same proxy.
#[test]
fn connect_out() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _elsewhere = Report::start(&sidecar.client, any(REPORT))?;
        let _here = Report::start(&sidecar.pod, any(REPORT))?;
        let mut routes = local_routes(PROXY, APPLICATION);
        routes.extend(local_routes(REPORT_PROXY, REPORT));
        let mut outgoing = Sidecar::targets(REPORT_PROXY);
        outgoing.extend(Family::ALL.map(|family| SocketAddr::new(family.client(0), REPORT)));
        let _application = application(directory, &sidecar.pod, "connects", &outgoing)?;
        kept(directory, &sidecar, &routes, Sidecar::targets(PROXY)).map(drop)
    });
}

#[test]
fn listen_on_the_proxys_port() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let routes = Family::ALL.map(|family| {
            let application = (family.localhost(), APPLICATION).into();
            ((Sidecar::address(family), APPLICATION).into(), application)
        });
        let _applications: Vec<_> = routes
            .iter()
            .map(|(_, application)| Report::start(&sidecar.pod, *application))
            .collect::<Result<_>>()?;
        let targets = routes.map(|(listen, _)| listen);
        lost(&sidecar, &routes, targets.into())?;
        kept(directory, &sidecar, &routes, targets.into()).map(drop)
    });
}

/// This process is the proxy, which ends some connections before they are accepted.
#[test]
fn accept_after_seconds() {
    const DELAY: Duration = Duration::from_secs(3);
    scenario(|directory| {
        let pod = Netns::new("pod")?;
        let application = application(directory, &pod, "waits", &[])?;
        let cgroup = Cgroup::new("proxy")?;
        let mut config = Config::new(directory, [])?;
        config.trust.push(Trust::cgroup(cgroup.path()));
        let agent = Agent::start(directory, config)?;
        let connect = |n: usize| {
            let family = Family::ALL[n % 2];
            let client = SocketAddr::new(family.client(n), 4711);
            let application = (family.localhost(), APPLICATION).into();
            Ok((client, connect_from(client, application, NO_MARK)?))
        };
        let connections: Vec<(SocketAddr, TcpStream)> =
            cgroup.run(|| pod.enter(|| (0..300).map(connect).collect()))?;
        let mut open = Vec::new();
        let mut expected = BTreeSet::new();
        for (n, (client, stream)) in connections.into_iter().enumerate() {
            // A connection that was reset has no peer any more, and its record is gone.
            let is_reset = n % 3 == 0;
            expected.insert(if is_reset {
                stream.local_addr()?
            } else {
                client
            });
            if is_reset {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            } else if n % 3 == 1 {
                open.push((client, stream));
            }
        }
        // Meanwhile the connections wait in the application's queue.
        std::thread::sleep(DELAY);
        application.signal(Signal::SIGUSR1)?;
        for (client, stream) in open {
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            let seen: Seen = serde_json::from_str(&line).context("the application's answer")?;
            ensure!(
                seen.accepted == client && seen.peername == client,
                "{client} was seen as {seen:?}"
            );
        }
        let accepted = eventually("all are accepted", || {
            let log = application.log()?;
            let accepted: BTreeSet<_> = log.lines().filter_map(|line| line.parse().ok()).collect();
            Ok((accepted.len() == expected.len()).then_some(accepted))
        })?;
        ensure!(accepted == expected, "{accepted:?} instead of {expected:?}");
        no_origins(&agent)
    });
}

/// Starts `application.py` inside `netns`.
fn application(
    directory: &Path,
    netns: &Netns,
    what: &str,
    outgoing: &[SocketAddr],
) -> Result<Process> {
    let mut command = netns.command(&find("PYTHON_BIN", "python3")?)?;
    command
        .args(["-c", include_str!("application.py"), what])
        .arg(APPLICATION.to_string())
        .args(outgoing.iter().map(ToString::to_string));
    let mut process = Process::start("application", command, directory)?;
    process.wait_until_it_listens(netns, [any(APPLICATION)])?;
    Ok(process)
}

/// Behind ordinary proxies the application sees the proxy.
fn lost(sidecar: &Sidecar, routes: &[Route], targets: Vec<SocketAddr>) -> Result<()> {
    let _proxies: Vec<_> = routes
        .iter()
        .map(|(listen, application)| Proxy::plain(&sidecar.pod, *listen, *application))
        .collect::<Result<_>>()?;
    Load::new(targets).run(&sidecar.client).all_lost()
}

/// Behind trusted proxies the application sees the client.
fn kept(
    directory: &Path,
    sidecar: &Sidecar,
    routes: &[Route],
    targets: Vec<SocketAddr>,
) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.push(Trust::uid(UID));
    let agent = Agent::start(directory, config)?;
    let proxy = proxy(directory, &sidecar.pod, PLAYGROUND.as_ref(), routes)?;
    Load::new(targets).run(&sidecar.client).all_exact()?;
    proxy.stop()?;
    no_origins(&agent)?;
    Ok(agent)
}
