//! A sidecar: client, proxy and application in one namespace (Istio's interceptionMode TPROXY,
//! without its iptables rules).

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use agent_common::Counter;
use anyhow::{Result, ensure};
use socket2::Socket;
use tests::agent::records::{known_to_application, no_origins, observed};
use tests::agent::{Agent, Config, Steer};
use tests::clients::load::{Application, Load, get};
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::own::Proxy;
use tests::proxies::{any, any_v4, envoy};
use tests::servers::report::Report;
use tests::servers::web::{Web, parse_client};
use tests::topology::{Family, Sidecar};

/// A dual-stack application.
const REPORT: u16 = 8080;
/// An application with a socket for each family.
const WEB: u16 = 8081;
const PLAIN: u16 = 15001;
const PLAIN_WEB: u16 = 15002;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;
/// How many clients connect at the same time, and how often each.
const AT_ONCE: usize = 16;
const EACH: usize = 300;
/// The last of the ports from which the kernel lets clients connect (ip-sysctl.rst, `ip_local_port_range`).
const LAST_OF_CLIENTS: u16 = 60999;

#[test]
fn envoy_original_src() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _report = Report::start(pod, any(REPORT))?;
        let web = Web::nginx(directory, pod, &[any_v4(WEB), any(WEB)])?;

        let mut routes = Vec::new();
        for (family, any) in Family::ALL.into_iter().zip([any_v4, any]) {
            routes.push((any(PLAIN), (family.localhost(), REPORT).into()));
            routes.push((any(PLAIN_WEB), (family.localhost(), WEB).into()));
        }
        let proxy = envoy::plain(directory, pod, &routes)?;
        for family in Family::ALL {
            let address = Sidecar::address(family);
            let report = Load::new([(address, PLAIN).into()]);
            report.run(&sidecar.client).all_lost()?;
            web_load((address, PLAIN_WEB).into())
                .run(&sidecar.client)
                .all_lost()?;
        }
        proxy.stop()?;

        let proxy = envoy::transparent(directory, pod, PROXY, MARK)?;
        with_truepeer(directory, &sidecar)?;
        proxy.stop()?;
        // nginx's own log agrees: with truepeer, it saw nothing but clients.
        let loads = Family::ALL.map(|family| web_load((Sidecar::address(family), WEB).into()));
        let made: usize = loads.iter().map(|load| load.connections).sum();
        for client in &web.logged(2 * made)?[made..] {
            let family = if client.is_ipv4() {
                Family::V4
            } else {
                Family::V6
            };
            ensure!(
                (0..1000).any(|n| family.client(n) == client.ip()),
                "nginx logged {client}"
            );
        }
        Ok(())
    });
}

#[test]
fn own_proxy() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _report = Report::start(pod, any(REPORT))?;
        let _web = Web::nginx(directory, pod, &[any_v4(WEB), any(WEB)])?;
        for family in Family::ALL {
            let listen = (Sidecar::address(family), PLAIN).into();
            let _proxy = Proxy::plain(pod, listen, (family.localhost(), REPORT).into())?;
            Load::new([listen]).run(&sidecar.client).all_lost()?;
        }
        let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
        with_truepeer(directory, &sidecar)
    });
}

/// Clients of one address on the proxy's own host, which connect again and again. The kernel looks for a free port for them and
/// for the proxy in the same order; where it found the same one for both, it reset both.
#[test]
fn clients_on_the_proxys_own_host() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _web = Web::nginx(directory, pod, &[any_v4(WEB), any(WEB)])?;
        let _proxy = envoy::transparent(directory, pod, PROXY, MARK)?;
        let steer = Steer::new("inbound", pod, &["8081"], PROXY).on(Sidecar::INTERFACE);
        let agent = Agent::start(directory, Config::new(directory, [steer])?)?;
        for family in Family::ALL {
            let target = (Sidecar::address(family), WEB).into();
            let told = sidecar.client.enter(|| ask(target))?;
            ensure!(
                told.port() > LAST_OF_CLIENTS,
                "the proxy connects from {told}, which a client may have"
            );
            let all = std::thread::scope(|scope| {
                let client = || {
                    sidecar
                        .client
                        .enter(|| (0..EACH).map(|_| ask(target)).collect())
                };
                let clients: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(client)).collect();
                let asked = clients.into_iter();
                let asked = asked.flat_map(|client| -> Vec<_> { client.join().expect("no panic") });
                asked.collect::<Vec<Result<SocketAddr>>>()
            });
            let failed: Vec<_> = all.iter().filter_map(|one| one.as_ref().err()).collect();
            ensure!(
                failed.is_empty(),
                "{family:?}: {} of {} connections failed; the first: {:#}",
                failed.len(),
                all.len(),
                failed[0]
            );
        }
        no_origins(&agent)
    });
}

/// Asks the web server who it sees, and ends the connection by a reset, as many clients do.
fn ask(target: SocketAddr) -> Result<SocketAddr> {
    let stream = Socket::from(TcpStream::connect(target)?);
    stream.set_linger(Some(Duration::ZERO))?;
    let stream = TcpStream::from(stream);
    let told = parse_client(&get(&stream)?)?;
    let client = stream.local_addr()?.ip();
    ensure!(told.ip() == client, "{client} is told as {told}");
    Ok(told)
}

/// Asserts that clients are kept with truepeer, and that it leaves the pod as it was.
fn with_truepeer(directory: &Path, sidecar: &Sidecar) -> Result<()> {
    let before = sidecar.pod.enter(Traces::here)?;
    let steer = Steer::new("inbound", &sidecar.pod, &["8080-8081"], PROXY).on(Sidecar::INTERFACE);
    let agent = Agent::start(directory, Config::new(directory, [steer])?)?;
    let mut made = 0;
    for family in Family::ALL {
        let address = Sidecar::address(family);
        let target = (address, REPORT).into();
        for load in [Load::new([target]), web_load((address, WEB).into())] {
            load.run(&sidecar.client).all_kept()?;
            made += load.connections as u64;
        }
        observed(&agent, &sidecar.client, &[target])?;
        let held = Load::new([target]).hold(&sidecar.client)?;
        let peers = agent.peers()?;
        for connection in &held {
            known_to_application(&peers, connection)?;
        }
        // A process in the pod asks by the addresses of its own socket.
        let seen = &held[0].seen;
        let peer = agent.ask_inside(&sidecar.pod, seen.local, seen.accepted)?;
        ensure!(peer.client.ip() == held[0].client.ip(), "{peer:?}");
    }
    no_origins(&agent)?;
    // By tc, or by `sk_lookup` where tc cannot.
    let steered = agent.counter(Counter::Steered)?;
    ensure!(
        steered >= made,
        "{steered} of {made} connections were steered"
    );
    ensure!(agent.stop()?.success(), "the agent's exit status");
    before.assert_unchanged(&sidecar.pod.enter(Traces::here)?)
}

fn web_load(target: SocketAddr) -> Load {
    Load {
        application: Application::Web,
        ..Load::new([target])
    }
}
