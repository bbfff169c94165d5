//! A trusted process that is no client's proxy at the moment: the kernel grants it what it would grant without truepeer.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::agent::{Agent, Config, Trust};
use tests::host::netns::{Netns, run};
use tests::host::scenario;
use tests::host::user::UID;
use tests::proxies::any;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};

const PROGRAM: &str = include_str!("options.py");
/// Addresses that the pod does not have yet.
const FUTURE: [&str; 2] = ["10.99.0.1", "fd99::1"];
const PORT: u16 = 8080;
/// What a trusted process without the capability is granted in name only, because a proxy that binds to a client asks for it.
const IN_NAME_ONLY: [(&str, i32); 2] = [("transparent", 0), ("mark", 0)];

/// What each attempt comes to, made by an ordinary user with these capabilities.
fn attempts(pod: &Netns, capabilities: &str) -> Result<BTreeMap<String, Value>> {
    let mut command = pod.command("setpriv")?;
    let user = [
        format!("--reuid={UID}"),
        format!("--regid={UID}"),
        "--clear-groups".into(),
        format!("--inh-caps={capabilities}"),
        format!("--ambient-caps={capabilities}"),
    ];
    // Not what only root may run.
    command.env("PATH", "/usr/bin:/bin");
    let target = Sidecar::sender(Family::V4).to_string();
    command.args(user).args(["python3", "-c", PROGRAM]);
    command.args(FUTURE).args([&target, &PORT.to_string()]);
    let printed = run(&mut command)?;
    serde_json::from_str(&printed).with_context(|| printed)
}

#[test]
fn keep_their_meaning() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        pod.ip("rule add fwmark 77 prohibit")?;
        let _report = Report::start(&sidecar.client, any(PORT))?;
        let able = "-all,+net_admin,+net_bind_service";
        let raw = "-all,+net_raw";
        let users = ["-all", able, raw];
        let before = users.map(|capabilities| attempts(pod, capabilities));

        let mut config = Config::new(directory, [])?;
        config.trust.push(Trust::uid(UID));
        let _agent = Agent::start(directory, config)?;
        for (capabilities, before) in users.into_iter().zip(before) {
            let mut expected = before?;
            if capabilities == "-all" {
                ensure!(expected["transparent"] == "EPERM", "{expected:?}");
                for (what, value) in IN_NAME_ONLY {
                    expected.insert(what.into(), value.into());
                }
                expected.insert("marked_packets".into(), "connected".into());
            } else {
                let (mark, packets) = (&expected["mark"], &expected["marked_packets"]);
                ensure!(mark == 77 && packets == "EACCES", "{expected:?}");
            }
            let future = json!([FUTURE[0], 8443]);
            ensure!(expected["future_address"] == future, "{expected:?}");
            let found = attempts(pod, capabilities)?;
            ensure!(
                found == expected,
                "{capabilities}: {found:#?} instead of {expected:#?}"
            );
        }
        Ok(())
    });
}
