//! What somebody takes away from under a running agent comes back, with a warning and a count of it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests::agent::taken::{TAKEN, command, pin, put_back};
use tests::agent::{Agent, Config, Steer, truepeer};
use tests::clients::load::Load;
use tests::host::traces::Traces;
use tests::host::{kernel, scenario};
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::{Limit, within};

const APPLICATION: u16 = 8080;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;
/// How long it may take until something is back.
const BACK: Limit = Limit::secs(2);

/// Runs `take`, and waits until what it took away is counted as put back and connections go through the proxy again.
fn comes_back(
    agent: &Agent,
    sidecar: &Sidecar,
    (kind, what): (&str, &str),
    take: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = put_back(agent, kind)?;
    take().with_context(|| what.to_owned())?;
    within(BACK, &format!("what `{what}` took is put back"), || {
        Ok((put_back(agent, kind)? > before).then_some(()))
    })?;
    let connects = || load().run(&sidecar.client);
    let outcome = within(
        BACK,
        &format!("connections are steered after `{what}`"),
        || {
            let outcome = connects();
            Ok((outcome.exact == 0 && outcome.all_kept().is_ok()).then_some(outcome))
        },
    )?;
    ensure!(outcome.exact == 0, "not all through the proxy: {outcome:?}");
    Ok(())
}

fn load() -> Load {
    Load {
        connections: 8,
        concurrent: 4,
        ..Load::new(Family::ALL.map(|family| (Sidecar::address(family), APPLICATION).into()))
    }
}

fn start(directory: &Path, sidecar: &Sidecar) -> Result<Agent> {
    let steer = Steer::new("in", &sidecar.pod, &["8080"], PROXY).on(Sidecar::INTERFACE);
    let mut config = Config::new(directory, [steer])?;
    config.agent.drain = Some(0);
    Agent::start(directory, config)
}

#[test]
fn rules_routes_sysctls_and_programs() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let before = pod.enter(Traces::here)?;
        let _application = Report::start(pod, any(APPLICATION))?;
        let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
        let agent = start(directory, &sidecar)?;
        let installed = pod.enter(Traces::here)?;
        for taken in TAKEN {
            comes_back(&agent, &sidecar, taken, || command(pod, taken.1))?;
            installed.assert_unchanged(&pod.enter(Traces::here)?)?;
        }
        if !kernel::is_at_least(6, 6)? {
            let taken = ("filter", "tc qdisc del dev eth0 clsact");
            comes_back(&agent, &sidecar, taken, || command(pod, taken.1))?;
        }
        // A link whose pin is removed detaches its program.
        for program in [
            "truepeer_steer",
            "truepeer_lookup",
            "truepeer_learn",
            "truepeer_peer4",
        ] {
            if let Some(pin) = pin(&agent, program)? {
                let what = format!("rm {}", pin.display());
                comes_back(&agent, &sidecar, ("link", &what), || {
                    Ok(std::fs::remove_file(&pin)?)
                })?;
            }
        }
        let log = agent.log()?;
        ensure!(
            log.contains("somebody has removed or changed the IPv4 rule"),
            "no warning in {log}"
        );
        let file = agent.config().write()?.display().to_string();
        let said = truepeer(&["doctor", "--config", &file])?.stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(
            said.contains("IPv4 rule `pref 133"),
            "the doctor says {said}"
        );
        // What was there before truepeer is there again, whoever changed it meanwhile.
        ensure!(agent.stop()?.success(), "the agent's exit status");
        before.assert_unchanged(&pod.enter(Traces::here)?)
    });
}

/// Another manager that always wins neither burns a processor nor fills the log.
#[test]
fn a_fight() {
    const FIGHTS: u64 = 200;
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let agent = start(directory, &sidecar)?;
        let mut won = 0;
        while won < FIGHTS {
            won += u64::from(command(&sidecar.pod, TAKEN[0].1).is_err());
        }
        let times = put_back(&agent, "rule")?;
        let warnings = agent.log()?.matches("somebody has removed").count() as u64;
        ensure!(
            times == warnings && (10..FIGHTS).contains(&times),
            "put back {times} times, with {warnings} warnings"
        );
        Ok(())
    });
}
