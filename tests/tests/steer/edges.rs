//! Uncommon circumstances that truepeer lives with.

use agent_common::Counter;
use anyhow::ensure;
use tests::agent::records::{known, no_origins, observed};
use tests::agent::{Agent, Config, Steer};
use tests::clients::load::{Application, Connection, Load};
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::own::Proxy;
use tests::proxies::{any, any_v4};
use tests::servers::report::Report;
use tests::servers::web::Web;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

const APPLICATION: u16 = 8080;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;

fn inbound(sidecar: &Sidecar) -> Steer {
    Steer::new("inbound", &sidecar.pod, &["8080"], PROXY).on(Sidecar::INTERFACE)
}

#[test]
fn a_range_with_the_proxys_own_port() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _application = Report::start(pod, any(15000))?;
        let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
        let steer = Steer::new("inbound", pod, &["15000-15010"], PROXY);
        for steer in [steer.clone(), steer.on(Sidecar::INTERFACE)] {
            let agent = Agent::start(directory, Config::new(directory, [steer])?)?;
            let mut made = 0;
            for family in Family::ALL {
                let address = Sidecar::address(family);
                let load = Load::new([(address, 15000).into()]);
                load.run(&sidecar.client).all_kept()?;
                made += load.connections as u64;
                let own = sidecar
                    .client
                    .enter(|| Connection::open(0, (address, PROXY).into(), Application::Report));
                ensure!(own.is_err(), "the proxy refuses connections to itself");
            }
            // Neither the connections to the proxy nor those of the proxy were steered.
            let steered = agent.counter(Counter::Steered)?;
            ensure!(
                (made..made + 200).contains(&steered),
                "{steered} of {made} connections were steered"
            );
            no_origins(&agent)?;
            ensure!(agent.stop()?.success(), "the agent's exit status");
        }
        Ok(())
    });
}

#[test]
fn an_interface_that_vanishes_and_comes_back() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _application = Report::start(pod, any(APPLICATION))?;
        let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
        let agent = Agent::start(directory, Config::new(directory, [inbound(&sidecar)])?)?;
        let targets = Family::ALL.map(|family| (Sidecar::address(family), APPLICATION).into());
        let load = Load::new(targets);
        for _ in 0..3 {
            load.run(&sidecar.client).all_kept()?;
            observed(&agent, &sidecar.client, &targets)?;
            sidecar.unplug()?;
            sidecar.plug_in()?;
            // Direct connections have no origin.
            eventually("the interface is steered again", || {
                let connections = Load {
                    concurrent: 1,
                    ..load.clone()
                }
                .hold(&sidecar.client)?;
                let Connection { target, client, .. } = connections[0];
                Ok(agent.peers()?.find(target, client).cloned())
            })?;
        }
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// A server that closes first keeps the connection's addresses for a minute (TIME_WAIT); a client may
/// use its port again before.
#[test]
fn a_client_port_that_is_used_again() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _application = Web::nginx(directory, pod, &[any_v4(APPLICATION), any(APPLICATION)])?;
        let again = || {
            sidecar.client.enter(|| {
                for family in Family::ALL {
                    let source = (family.client(0), 40001).into();
                    let target = (Sidecar::address(family), APPLICATION).into();
                    for _ in 0..5 {
                        let connection = Connection::open_from(source, target, Application::Web)?;
                        ensure!(connection.seen.accepted.ip() == source.ip());
                    }
                }
                Ok(())
            })
        };
        again()?;
        let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
        let lookup = Steer::new("inbound", pod, &["8080"], PROXY);
        for steer in [lookup, inbound(&sidecar)] {
            let agent = Agent::start(directory, Config::new(directory, [steer])?)?;
            again()?;
            let steered = agent.counter(Counter::Steered)?;
            ensure!(steered >= 10, "{steered} of 10 connections were steered");
            no_origins(&agent)?;
            ensure!(agent.stop()?.success(), "the agent's exit status");
        }
        Ok(())
    });
}

#[test]
fn ipv6_disabled() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        pod.set_sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        pod.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        let before = pod.enter(Traces::here)?;
        let _application = Report::start(pod, any_v4(APPLICATION))?;
        let _proxy = Proxy::sidecar(pod, any_v4(PROXY), MARK)?;
        let agent = Agent::start(directory, Config::new(directory, [inbound(&sidecar)])?)?;
        let target = (Sidecar::address(Family::V4), APPLICATION).into();
        Load::new([target]).run(&sidecar.client).all_kept()?;
        observed(&agent, &sidecar.client, &[target])?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        before.assert_unchanged(&pod.enter(Traces::here)?)
    });
}

#[test]
fn a_full_map() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        // A steered application: one origin for each connection.
        let _application = Report::start(&sidecar.pod, any(PROXY))?;
        let steer = Steer::new("range", &sidecar.pod, &["9000-9099"], PROXY);
        let mut config = Config::new(directory, [steer])?;
        config.agent.origins = Some(100);
        let agent = Agent::start(directory, config)?;
        let load = Load {
            concurrent: 150,
            ..Load::new(Family::ALL.map(|family| (Sidecar::address(family), 9042).into()))
        };
        for round in 1..=2 {
            let held = load.hold(&sidecar.client)?;
            let peers = agent.peers()?;
            let mut unknown = 0;
            for connection in &held {
                ensure!(
                    connection.seen.accepted == connection.client,
                    "as without truepeer"
                );
                match peers.find(connection.target, connection.client) {
                    None => unknown += 1,
                    Some(_) => known(&peers, connection)?,
                }
            }
            ensure!(unknown == 50, "{unknown} of 150 connections are unknown");
            ensure!(
                agent.counter(Counter::OriginsFull)? == 50 * round,
                "origins_full"
            );
            drop(held);
            no_origins(&agent)?;
        }
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn no_origin_leaks() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _application = Report::start(&sidecar.pod, any(APPLICATION))?;
        let _proxy = Proxy::sidecar(&sidecar.pod, any(PROXY), MARK)?;
        let agent = Agent::start(directory, Config::new(directory, [inbound(&sidecar)])?)?;
        let targets = Family::ALL.map(|family| (Sidecar::address(family), APPLICATION).into());
        let load = Load::new(targets).of(20_000);
        load.run(&sidecar.client).all_kept()?;
        no_origins(&agent)?;
        // Each connection has two sockets with an origin: the proxy's and the application's.
        let learnt = agent.counter(Counter::LearntWire)?;
        let made = 2 * load.connections as u64;
        ensure!(learnt == made, "{learnt} of {made} origins were learnt");
        ensure!(
            agent.counter(Counter::Closed)? == learnt,
            "all of them closed"
        );
        ensure!(
            agent.counter(Counter::OriginsFull)? == 0,
            "none was left out"
        );
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
