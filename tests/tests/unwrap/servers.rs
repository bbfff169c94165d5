//! Servers that know nothing of the PROXY protocol behind a load balancer that speaks it: each tells and
//! logs the client.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Result, ensure};
use ipnet::IpNet;
use tests::agent::records::{no_origins, none_refused};
use tests::agent::{Agent, Trust};
use tests::clients::load::{Application, Load};
use tests::host::netns::{Netns, run};
use tests::host::scenario;
use tests::proxies::{any, any_v4, gateway_routes, haproxy};
use tests::servers::postgresql::{self, Postgresql};
use tests::servers::sshd::{self, Sshd};
use tests::servers::web::{Web, parse_client};
use tests::topology::{Family, Gateway, Sidecar};
use tests::wait::SOON;

use crate::stage::{in_pod, on_server};

const SERVER: u16 = 8080;
/// The sender's port for IPv4; the next is for IPv6.
const SENDER: u16 = 15001;

/// A server that the body starts, with a load balancer in front whose header's version and length change
/// from client to client.
fn server<S>(
    start: impl FnOnce(&Path, &Netns) -> Result<S>,
    check: impl FnOnce(&Gateway, &S) -> Result<()>,
) {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let server = start(directory, &gateway.server)?;
        let options = "send-proxy-v2 proxy-v2-options unique-id";
        let _sender = haproxy::telling(
            directory,
            &gateway.gateway,
            options,
            &gateway_routes(SENDER, SERVER),
        )?;
        let agent = Agent::start(directory, on_server(directory, &gateway, &["8080"])?)?;
        check(&gateway, &server)?;
        none_refused(&agent)?;
        no_origins(&agent)
    });
}

#[test]
fn nginx() {
    server(
        |directory, netns| Web::nginx(directory, netns, &[any_v4(SERVER), any(SERVER)]),
        |gateway, web| {
            let load = Load {
                application: Application::Web,
                ..Load::new(Gateway::targets(SENDER))
            };
            load.run(&gateway.client).all_exact()?;
            let held = load.hold(&gateway.client)?;
            let clients: BTreeSet<SocketAddr> = held.iter().map(|held| held.client).collect();
            let logged = web.logged(load.connections + held.len())?;
            ensure!(
                clients == logged[load.connections..].iter().copied().collect(),
                "connected: {clients:?}, logged: {logged:?}"
            );
            Ok(())
        },
    );
}

#[test]
fn sshd() {
    server(
        |directory, netns| Sshd::start(directory, netns, SERVER),
        |gateway, sshd| {
            let clients: Vec<IpAddr> = (0..3)
                .flat_map(|n| Family::ALL.map(|family| family.client(n)))
                .collect();
            for (client, target) in clients
                .iter()
                .zip(Gateway::targets(SENDER).into_iter().cycle())
            {
                sshd::connect(&gateway.client, *client, target)?;
            }
            let logged = sshd.logged()?;
            ensure!(
                logged == clients,
                "connected: {clients:?}, logged: {logged:?}"
            );
            Ok(())
        },
    );
}

#[test]
fn postgresql() {
    let (friend, stranger) = (0, 1);
    let admitted = Family::ALL.map(|family| family.client(friend));
    server(
        |directory, netns| Postgresql::start(directory, netns, SERVER, &admitted),
        |gateway, _| {
            for (family, target) in Family::ALL.into_iter().zip(Gateway::targets(SENDER)) {
                let ask = |client| {
                    gateway.connect_from(client)?;
                    postgresql::query(&gateway.client, target, "select inet_client_addr()")
                };
                let answer = ask(family.client(friend))?;
                ensure!(answer == family.client(friend).to_string(), "{answer}");
                let stranger = family.client(stranger);
                postgresql::refuses(ask(stranger), stranger)?;
            }
            Ok(())
        },
    );
}

/// TLS of a client that the load balancer passes on.
#[test]
fn tls() {
    server(
        |directory, netns| Web::nginx_tls(directory, netns, &[any_v4(SERVER), any(SERVER)]),
        |gateway, web| {
            let mut clients = Vec::new();
            for (family, target) in Family::ALL.into_iter().zip(Gateway::targets(SENDER)) {
                for n in 0..20 {
                    let source = family.client(n);
                    let (client, answer) = curl(&gateway.client, target, source, &[])?;
                    ensure!(answer == client, "{client} was seen as {answer}");
                    clients.push(client);
                }
            }
            let logged = web.logged(clients.len())?;
            ensure!(
                logged == clients,
                "connected: {clients:?}, logged: {logged:?}"
            );
            Ok(())
        },
    );
}

/// `curl --haproxy-protocol`, which names itself.
#[test]
fn curl_itself() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _web = Web::nginx_tls(directory, &sidecar.pod, &[any_v4(SERVER), any(SERVER)])?;
        let mut config = in_pod(directory, &sidecar, &["8080"])?;
        let senders = Family::ALL.map(|family| family.client(0));
        config.trust.extend(Trust::saying(
            &["proxy"],
            senders.map(|sender| IpNet::from(sender).to_string()),
        ));
        let agent = Agent::start(directory, config)?;
        for (family, sender) in Family::ALL.into_iter().zip(senders) {
            let target = (Sidecar::address(family), SERVER).into();
            let (client, answer) = curl(&sidecar.client, target, sender, &["--haproxy-protocol"])?;
            ensure!(answer == client, "{client} was seen as {answer}");
            let without = curl(&sidecar.client, target, sender, &[]);
            ensure!(without.is_err(), "without a header: {without:?}");
        }
        no_origins(&agent)
    });
}

/// Asks a server with TLS from this address; curl's own end, and what the server says of it.
fn curl(
    netns: &Netns,
    target: SocketAddr,
    source: IpAddr,
    options: &[&str],
) -> Result<(SocketAddr, SocketAddr)> {
    let mut curl = netns.command("curl")?;
    curl.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--max-time",
        &SOON.whole_secs().to_string(),
    ])
    .args(["--interface", &source.to_string()])
    .args(["--write-out", "\n%{local_ip} %{local_port}"])
    .args(options)
    .arg(format!("https://{target}/"));
    let output = run(&mut curl)?;
    let (answer, own) = output.split_once('\n').unwrap_or_default();
    Ok((parse_client(own)?, parse_client(answer)?))
}
