//! One service has several workers, or a relay several upstreams: all connections of a client go to the same one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use tests::agent::{Agent, Config, Steer};
use tests::balancer::{APPLICATION, BALANCER, agent, relays, routes, three};
use tests::clients::load::{Application, Connection, connect, get};
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::{any, any_v4, haproxy};
use tests::servers::web::Web;
use tests::topology::{Family, Gateway, Sidecar};

/// What clients connect to.
const SERVICE: u16 = 8080;
/// Where workers listen; no more than four of the six ports are used.
const WORKERS: &str = "8081-8086";
const FIRST: u16 = 8081;
const USED: usize = 4;

/// A worker, known by its port.
fn worker(directory: &Path, netns: &Netns, port: u16) -> Result<Web> {
    let addresses = [any_v4(port), any(port)];
    Web::nginx_saying(directory, netns, &addresses, &port.to_string())
}

/// The workers that serve many clients of both families, each by a connection of its own.
fn choices(client: &Netns) -> Result<HashMap<IpAddr, u16>> {
    client.enter(|| {
        let clients = Family::ALL.map(|family| (0..120).map(move |n| (family, n)));
        let ask = |(family, n): (Family, usize)| {
            let (ip, target) = (family.client(n), Sidecar::address(family));
            let stream = connect((ip, 0).into(), SocketAddr::new(target, SERVICE))?;
            Ok((ip, get(&stream)?.parse()?))
        };
        clients.into_iter().flatten().map(ask).collect()
    })
}

/// `now` differs from `before` only in the clients that were with `lost`.
fn only_its_clients_moved(
    before: &HashMap<IpAddr, u16>,
    now: &HashMap<IpAddr, u16>,
    lost: u16,
) -> Result<()> {
    for (client, now) in now {
        let before = before[client];
        ensure!(
            *now != lost && (*now == before || before == lost),
            "{client}: first {before}, now {now}, lost {lost}"
        );
    }
    Ok(())
}

fn clients_keep_their_worker(steer: impl Fn(Steer) -> Steer) {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let (pod, client) = (&topology.pod, &topology.client);
        // Some workers are older than the agent, and some are younger.
        let mut workers: HashMap<_, _> = (FIRST..)
            .take(USED / 2)
            .map(|port| Ok((port, worker(directory, pod, port)?)))
            .collect::<Result<_>>()?;
        let to = Steer::new("workers", pod, &[&SERVICE.to_string()], WORKERS);
        let mut agent = Agent::start(directory, Config::new(directory, [steer(to)])?)?;
        for port in (FIRST..).take(USED).skip(USED / 2) {
            workers.insert(port, worker(directory, pod, port)?);
        }
        let before = choices(client)?;
        for port in workers.keys() {
            let its = before.values().filter(|chosen| *chosen == port).count();
            let fair = before.len() / USED;
            ensure!(
                (fair / 2..fair * 2).contains(&its),
                "{its} of {} clients on port {port}",
                before.len()
            );
        }
        ensure!(choices(client)? == before, "each client has its worker");
        let steered = agent.counter(Counter::Steered)?;
        ensure!(steered == 2 * before.len() as u64, "{steered} were steered");

        // This holds without an agent, and with its successor.
        let config = agent.kill()?;
        ensure!(choices(client)? == before, "the agent is dead");
        agent = Agent::start(directory, config)?;
        ensure!(choices(client)? == before, "there is another agent");

        for lost in [FIRST, FIRST + USED as u16 - 1] {
            workers.remove(&lost).context("a worker")?;
            only_its_clients_moved(&before, &choices(client)?, lost)?;
            workers.insert(lost, worker(directory, pod, lost)?);
            ensure!(choices(client)? == before, "the clients of {lost} are back");
        }

        // Without any worker, connections go on as if truepeer were absent.
        workers.clear();
        let _direct = worker(directory, pod, SERVICE)?;
        let passed = choices(client)?;
        ensure!(passed.values().all(|port| *port == SERVICE), "{passed:?}");
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// A relay behind a load balancer keeps the assignment, whichever of the two restarts.
#[test]
fn of_a_relay() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let applications = three(&topology.server)?;
        let mut relay = relays(&topology.server, "reveal").remove(0);
        relay.balance = Some("client-ip");
        relay.upstream = applications
            .keys()
            .map(|ip| (*ip, APPLICATION).into())
            .collect();
        let routes = &routes()[..1];
        let balancer = || haproxy::telling(directory, &topology.gateway, "send-proxy-v2", routes);
        let choices = || -> Result<HashMap<IpAddr, IpAddr>> {
            let target = Gateway::targets(BALANCER)[0];
            topology.client.enter(|| {
                let ask = |n| {
                    let connection = Connection::open(n, target, Application::Report)?;
                    let Connection { client, seen, .. } = connection;
                    ensure!(seen.accepted == client, "{client} is seen as {seen:?}");
                    Ok((client.ip(), seen.local.ip()))
                };
                (0..100).map(ask).collect()
            })
        };
        let mut agent = agent(directory, vec![relay])?;
        let haproxy = balancer()?;
        let before = choices()?;
        for upstream in applications.keys() {
            let its = before.values().filter(|ip| *ip == upstream).count();
            ensure!(
                (15..60).contains(&its),
                "{its} of 100 clients at {upstream}"
            );
        }
        for _ in 0..2 {
            let config = agent.kill()?;
            agent = Agent::start(directory, config)?;
            ensure!(choices()? == before, "there is another agent");
        }
        haproxy.kill()?;
        let _haproxy = balancer()?;
        ensure!(choices()? == before, "there is another load balancer");
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// `sk_lookup` chooses the worker.
#[test]
fn of_a_namespace() {
    clients_keep_their_worker(|steer| steer);
}

/// The program at tc ingress chooses the worker.
#[test]
fn of_an_interface() {
    clients_keep_their_worker(|steer| steer.on(Sidecar::INTERFACE));
}
