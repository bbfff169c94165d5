//! What the agent refuses: with the reason, and with nothing attached.

use std::path::Path;

use anyhow::{Result, ensure};
use tests::agent::{Agent, Config, Steer, truepeer};
use tests::host::netns::run;
use tests::host::traces::Traces;
use tests::host::{kernel, scenario};
use tests::topology::Sidecar;

const PROXY: u16 = 15006;

fn inbound(sidecar: &Sidecar) -> Steer {
    Steer::new("inbound", &sidecar.pod, &["8080"], PROXY).on(Sidecar::INTERFACE)
}

/// Runs an agent that is expected to refuse; returns what it said.
fn refused(config: &Path, status: i32) -> Result<String> {
    let output = truepeer(&["run", "--config", &config.display().to_string()])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(status),
        "expected exit status {status}, got {} and {said}",
        output.status
    );
    Ok(said)
}

fn ensure_says(said: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(said.contains(word), "expected {word:?} in:\n{said}");
    }
    Ok(())
}

/// For each case: the section, the line that is wrong, and words of the error.
const BAD: [(&str, u32, &[&str]); 8] = [
    ("port = [\"8080\"]\nto = 15006", 2, &["port", "`ports`"]),
    ("ports = [\"9010-9000\"]\nto = 15006", 2, &["9000-9010"]),
    ("ports = [\"8080\"]", 0, &["to"]),
    (
        "ports = [\"8080\"]\nto = 15006\nmark = \"0x539/0x0ff\"",
        4,
        &["0x539", "0xff"],
    ),
    ("ports = [\"8080\"]\nto = 70000", 3, &["70000", "65535"]),
    ("ports = [8080]\nto = 15006", 2, &["8080"]),
    (
        "ports = [\"8080\"]\nto = 15006\ninterface = \"lo\"",
        4,
        &["lo"],
    ),
    ("ports = [\"8080\"\nto = 15006", 3, &[]),
];

#[test]
fn a_bad_configuration() {
    scenario(|directory| {
        let config = Config::new(directory, [])?;
        let file = config.write()?;
        let head = std::fs::read_to_string(&file)?.replace("steer = []\n", "") + "[[steer]]\n";
        let first = head.lines().count() as u32;
        for (section, line, words) in BAD {
            std::fs::write(&file, format!("{head}name = \"bad\"\n{section}\n"))?;
            let said = refused(&file, 2)?;
            ensure_says(&said, words)?;
            let line = format!("{}:{}:", file.display(), first + line);
            ensure_says(&said, &[&line])?;
            ensure!(!config.agent.bpffs.exists(), "something was attached");
        }
        Ok(())
    });
}

#[test]
fn steers_that_overlap() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let before = sidecar.pod.enter(Traces::here)?;
        let first = Steer::new("first", &sidecar.pod, &["8080", "9000-9010"], PROXY);
        let second = Steer::new("second", &sidecar.pod, &["9010-9020"], 15007);
        for first in [first.clone(), first.on(Sidecar::INTERFACE)] {
            let config = Config::new(directory, [first, second.clone()])?.write()?;
            ensure_says(&refused(&config, 2)?, &["first", "second", "9010"])?;
        }
        before.assert_unchanged(&sidecar.pod.enter(Traces::here)?)
    });
}

/// Runs `tc` in the pod.
fn tc(sidecar: &Sidecar, arguments: &str) -> Result<String> {
    run(sidecar.pod.command("tc")?.args(arguments.split(' ')))
}

#[test]
fn a_filter_of_somebody_elses_at_its_priority() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let device = format!("dev {}", Sidecar::INTERFACE);
        let filter = "prio 135 protocol ip u32 match u32 0 0 flowid 1:1";
        tc(&sidecar, &format!("qdisc add {device} clsact"))?;
        tc(&sidecar, &format!("filter add {device} ingress {filter}"))?;
        let filters = || tc(&sidecar, &format!("filter show {device} ingress"));
        let (before, theirs) = (sidecar.pod.enter(Traces::here)?, filters()?);
        let config = Config::new(directory, [inbound(&sidecar)])?;
        if kernel::is_at_least(6, 6)? {
            // TCX programs have no priorities.
            ensure!(
                Agent::start(directory, config)?.stop()?.success(),
                "exit status"
            );
        } else {
            let said = refused(&config.write()?, 1)?;
            ensure_says(
                &said,
                &["priority 135", Sidecar::INTERFACE, "u32", "tc filter show"],
            )?;
        }
        ensure!(filters()? == theirs, "another's filter has changed");
        before.assert_unchanged(&sidecar.pod.enter(Traces::here)?)
    });
}

#[test]
fn a_second_agent() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let config = Config::new(directory, [inbound(&sidecar)])?;
        let file = config.write()?;
        let first = Agent::start(directory, config)?;
        ensure_says(&refused(&file, 1)?, &[&first.id().to_string()])?;
        ensure!(first.status().is_ok(), "the first goes on");
        ensure!(first.stop()?.success(), "the first agent's exit status");
        Ok(())
    });
}
