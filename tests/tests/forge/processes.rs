//! What a process says that has a trusted user's number is believed as far as the rule reaches.

use std::net::SocketAddr;
use std::path::Path;

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::{Agent, Carry, CarryToa, Config, Policy, Trust};
use tests::clients::tcp::seen;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::connect_from;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};

const PORT: u16 = 8080;
/// A port that the rule does not concern.
const OTHER: u16 = 8081;

/// Whom an application sees when a process in `netns` connects in the name of a client, who is returned, too.
fn whom(netns: &Netns, target: SocketAddr) -> Result<(SocketAddr, SocketAddr)> {
    let client = (Family::of(target).client(6), 4711).into();
    let mut stream = netns.enter(|| connect_from(client, target, 0))?;
    Ok((client, seen(&mut stream)?.accepted))
}

/// An agent that believes the test's own user.
fn agent(directory: &Path, rule: Trust) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.push(rule);
    config.carry = Some(Carry {
        toa: CarryToa {
            to: ["10.77.0.0/24", "fd77::/64"].map(String::from).into(),
            ..CarryToa::default()
        },
        ..Carry::default()
    });
    // Whoever is not told is not judged by the claim either.
    config.policy.push(Policy {
        name: "other".into(),
        ports: vec![OTHER.to_string()],
        deny: vec![format!("{}/32", Family::V4.client(6))],
        ..Policy::default()
    });
    Agent::start(directory, config)
}

#[test]
fn a_user_of_another_pod() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let (pod, other) = (&sidecar.pod, &sidecar.client);
        let _reports = [
            Report::start(pod, any(PORT))?,
            Report::start(pod, any(OTHER))?,
        ];
        for (reach, by_another, is_carried) in [
            ("namespace", false, false),
            ("host", true, false),
            ("carry", true, true),
        ] {
            let agent = agent(directory, Trust::uid(0).reach(reach))?;
            for family in Family::ALL {
                let target = (Sidecar::address(family), PORT).into();
                let (client, told) = whom(pod, target)?;
                ensure!(told == client, "{reach}: its own pod was told {told}");
                let (client, told) = whom(other, target)?;
                ensure!(
                    (told == client) == by_another,
                    "{reach}: another was told {told}"
                );
            }
            let carried = agent.counter(Counter::CarriedToa)? > 0;
            ensure!(carried == is_carried, "{reach}: carried {carried}");
            if reach == "namespace" {
                // The policy judges whom the application sees: the process itself.
                let (_, told) = whom(other, (Sidecar::address(Family::V4), OTHER).into())?;
                ensure!(told.ip() != Family::V4.client(6), "told {told}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_rule_for_some_ports() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _reports = [
            Report::start(pod, any(PORT))?,
            Report::start(pod, any(OTHER))?,
        ];
        let _agent = agent(
            directory,
            Trust {
                ports: vec![PORT.to_string()],
                ..Trust::uid(0)
            },
        )?;
        for family in Family::ALL {
            let localhost = family.localhost();
            let (client, told) = whom(pod, (localhost, PORT).into())?;
            ensure!(told == client, "told {told}");
            let (client, told) = whom(pod, (localhost, OTHER).into())?;
            ensure!(told.ip() == localhost && told != client, "told {told}");
        }
        Ok(())
    });
}
