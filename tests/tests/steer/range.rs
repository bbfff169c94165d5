//! `sk_lookup`: one listener serves a range of ports of a whole namespace.

use std::net::SocketAddr;
use std::path::Path;

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::records::{known_to_application, no_origins, observed};
use tests::agent::{Agent, Config, Steer};
use tests::clients::load::{Application, Load};
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::own::Proxy;
use tests::proxies::{any, any_v4, envoy};
use tests::servers::report::Report;
use tests::servers::web::Web;
use tests::topology::{Family, Sidecar};

const FIRST: u16 = 9000;
const LAST: u16 = 9099;
const PLAIN: u16 = 15001;
const LISTENER: u16 = 15006;
const MARK: u32 = 1337;

/// All ports of the range.
fn targets(family: Family) -> Vec<SocketAddr> {
    (FIRST..=LAST)
        .map(|port| (Sidecar::address(family), port).into())
        .collect()
}

fn config(directory: &Path, sidecar: &Sidecar) -> Result<Config> {
    Config::new(
        directory,
        [Steer::new("range", &sidecar.pod, &["9000-9099"], LISTENER)],
    )
}

/// One dual-stack socket answers on a hundred ports.
#[test]
fn one_dual_stack_listener() {
    one_listener(Application::Report, |_, sidecar| {
        Report::start(&sidecar.pod, any(LISTENER))
    });
}

/// One socket for each family answers on a hundred ports.
#[test]
fn one_listener_for_each_family() {
    one_listener(Application::Web, |directory, sidecar| {
        Web::nginx(directory, &sidecar.pod, &[any_v4(LISTENER), any(LISTENER)])
    });
}

fn one_listener<S>(application: Application, serve: fn(&Path, &Sidecar) -> Result<S>) {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let before = sidecar.pod.enter(Traces::here)?;
        let _server = serve(directory, &sidecar)?;
        let load = |family| Load {
            application,
            ..Load::new(targets(family))
        };
        for family in Family::ALL {
            let refused = load(family).run(&sidecar.client);
            ensure!(
                refused.failed == load(family).connections,
                "nobody listens there yet: {refused:?}"
            );
        }
        let agent = Agent::start(directory, config(directory, &sidecar)?)?;
        let mut made = 0;
        for family in Family::ALL {
            let load = load(family);
            load.run(&sidecar.client).all_exact()?;
            made += load.connections as u64;
            if application == Application::Report {
                observed(&agent, &sidecar.client, &targets(family))?;
            }
        }
        no_origins(&agent)?;
        ensure!(
            agent.counter(Counter::Steered)? >= made,
            "fewer than {made} connections were steered"
        );
        ensure!(agent.stop()?.success(), "the agent's exit status");
        before.assert_unchanged(&sidecar.pod.enter(Traces::here)?)
    });
}

/// The proxy's connections to the application, on the same ports, do not come back to the proxy.
#[test]
fn a_proxys_own_connections_are_left_alone() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _applications = [FIRST, LAST]
            .into_iter()
            .map(|port| Report::start(pod, any(port)))
            .collect::<Result<Vec<_>>>()?;
        let target = |family, port| SocketAddr::new(Sidecar::address(family), port);
        let plain = envoy::plain(
            directory,
            pod,
            &[
                (any_v4(PLAIN), (Family::V4.localhost(), FIRST).into()),
                (any(PLAIN), (Family::V6.localhost(), LAST).into()),
            ],
        )?;
        for family in Family::ALL {
            let load = Load::new([target(family, PLAIN)]);
            load.run(&sidecar.client).all_lost()?;
        }
        plain.stop()?;

        let envoy = envoy::transparent(directory, pod, LISTENER, MARK)?;
        check_proxy(directory, &sidecar)?;
        envoy.stop()?;
        let _own = Proxy::sidecar(pod, any(LISTENER), MARK)?;
        check_proxy(directory, &sidecar)
    });
}

fn check_proxy(directory: &Path, sidecar: &Sidecar) -> Result<()> {
    let agent = Agent::start(directory, config(directory, sidecar)?)?;
    for family in Family::ALL {
        let targets = [FIRST, LAST].map(|port| (Sidecar::address(family), port).into());
        let load = Load::new(targets);
        let steered = agent.counter(Counter::Steered)?;
        load.run(&sidecar.client).all_kept()?;
        let steered = agent.counter(Counter::Steered)? - steered;
        let made = load.connections as u64;
        // `sk_lookup` counts what comes too late for its connection as well: a repeated segment.
        ensure!(
            (made..made + 100).contains(&steered),
            "{made} connections were steered {steered} times"
        );
        observed(&agent, &sidecar.client, &targets)?;
        let held = load.hold(&sidecar.client)?;
        let peers = agent.peers()?;
        for connection in &held {
            known_to_application(&peers, connection)?;
        }
    }
    no_origins(&agent)?;
    ensure!(agent.stop()?.success(), "the agent's exit status");
    Ok(())
}
