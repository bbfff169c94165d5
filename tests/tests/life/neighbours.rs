//! Programs of others on the same hooks, and pins that nobody sees any more.

use std::path::{Path, PathBuf};

use agent_common::Counter;
use anyhow::{Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Steer, Trust, Unwrap, truepeer};
use tests::clients::load::Load;
use tests::host::bpf::{self, Foreign};
use tests::host::traces::Traces;
use tests::host::{kernel, scenario};
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

const APPLICATION: u16 = 8080;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;

/// An application behind a proxy in a pod.
struct Stage {
    sidecar: Sidecar,
    _application: Report,
    _proxy: Proxy,
}

impl Stage {
    fn new() -> Result<Self> {
        let sidecar = Sidecar::new()?;
        Ok(Self {
            _application: Report::start(&sidecar.pod, any(APPLICATION))?,
            _proxy: Proxy::sidecar(&sidecar.pod, any(PROXY), MARK)?,
            sidecar,
        })
    }

    fn config(&self, directory: &Path) -> Result<Config> {
        let pod = &self.sidecar.pod;
        let steer = Steer::new("in", pod, &[&APPLICATION.to_string()], PROXY);
        let mut config = Config::new(directory, [steer.on(Sidecar::INTERFACE)])?;
        config.agent.drain = Some(0);
        Ok(config)
    }

    /// Whether connections go through the proxy, or else directly.
    fn are_steered(&self, steered: bool) -> Result<()> {
        let outcome = Load {
            connections: 20,
            concurrent: 5,
            ..Load::new(Family::ALL.map(|family| (Sidecar::address(family), APPLICATION).into()))
        }
        .run(&self.sidecar.client);
        outcome.all_kept()?;
        ensure!(
            (outcome.exact == 0) == steered,
            "steered: {steered}, {outcome:?}"
        );
        Ok(())
    }

    /// The programs at tc ingress of the pod's interface, in the order in which they run.
    fn ingress(&self) -> Result<Vec<String>> {
        self.sidecar.pod.enter(|| bpf::ingress(Sidecar::INTERFACE))
    }
}

#[test]
fn the_order_of_programs_does_not_depend_on_history() {
    scenario(|directory| {
        if !kernel::is_at_least(6, 6)? {
            // Filters have priorities there, which say the order.
            return Ok(());
        }
        let stage = Stage::new()?;
        let foreign = || {
            stage
                .sidecar
                .pod
                .enter(|| Foreign::passes(Sidecar::INTERFACE))
        };
        let _first = foreign()?;
        let good = stage.config(directory)?;
        let agent = Agent::start(directory, good.clone())?;
        let _second = foreign()?;
        let others = [bpf::NAME; 2];
        let expected = |ours: &[&str]| -> Result<()> {
            let all = stage.ingress()?;
            ensure!(all == [ours, &others].concat(), "{ours:?} first: {all:?}");
            stage.are_steered(true)
        };
        expected(&["truepeer_steer"])?;
        // What is to run first comes last.
        let mut with_unwrap = good.clone();
        let unwrap = Unwrap::new(&stage.sidecar.pod, Sidecar::INTERFACE, &["8090"]);
        with_unwrap.unwrap.push(unwrap);
        with_unwrap
            .trust
            .extend(Trust::saying(&["proxy"], ["192.0.2.0/24"]));
        agent.reload(&with_unwrap)?;
        expected(&["truepeer_unwrap", "truepeer_steer"])?;
        agent.reload(&good)?;
        expected(&["truepeer_steer"])?;
        agent.reload(&with_unwrap)?;
        agent.kill()?;
        let agent = Agent::start(directory, with_unwrap)?;
        expected(&["truepeer_unwrap", "truepeer_steer"])?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        expected(&[]).unwrap_err();
        ensure!(stage.ingress()? == others, "another's program is gone");
        Ok(())
    });
}

#[test]
fn origins_whose_end_nobody_tells() {
    scenario(|directory| {
        let stage = Stage::new()?;
        let agent = Agent::start(directory, stage.config(directory)?)?;
        stage.are_steered(true)?;
        no_origins(&agent)?;
        ensure!(agent.counter(Counter::Swept)? == 0, "swept");
        {
            // A proxied connection is the proxy's, which accepts it on the application's port.
            let _foreign = Foreign::clears_flags(APPLICATION)?;
            let held =
                Load::new(Family::ALL.map(|family| (Sidecar::address(family), APPLICATION).into()))
                    .hold(&stage.sidecar.client)?;
            stage.are_steered(true)?;
            eventually("what has leaked is swept", || {
                let swept = agent.counter(Counter::Swept)? > 0;
                // The proxy's connection has one, and the application's.
                Ok((swept && agent.origins()? <= 2 * held.len() as u64).then_some(()))
            })?;
            ensure!(
                agent.origins()? > 0,
                "origins of open connections are swept"
            );
        }
        no_origins(&agent)
    });
}

/// A bpffs, unmounted on drop.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(point: &'a Path) -> Result<Self> {
        mount(
            Some("none"),
            point,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        Ok(Self(point))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.0, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

/// Two agents with pins of their own would both change the same packets: the second one does not start, and changes nothing.
#[test]
fn another_agent_on_the_same_interface() {
    scenario(|directory| {
        let stage = Stage::new()?;
        let first = Agent::start(directory, stage.config(directory)?)?;
        let config = stage.config(directory)?;
        let file = config.write()?.display().to_string();
        let refused = truepeer(&["run", "--config", &file])?;
        let said = String::from_utf8_lossy(&refused.stderr);
        let pins = first.config().agent.bpffs.display().to_string();
        for word in [
            Sidecar::INTERFACE,
            "another agent",
            "truepeer detach",
            &pins,
        ] {
            ensure!(said.contains(word), "expected {word:?} in:\n{said}");
        }
        stage.are_steered(true)?;
        no_origins(&first)?;
        ensure!(first.stop()?.success(), "the agent's exit status");
        stage.are_steered(false)?;
        let second = Agent::start(directory, config)?;
        stage.are_steered(true)?;
        ensure!(second.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn a_second_bpffs_over_the_pins() {
    scenario(|directory| {
        let stage = Stage::new()?;
        let before = stage.sidecar.pod.enter(Traces::here)?;
        let point: PathBuf = directory.join("bpf");
        std::fs::create_dir(&point)?;
        let first = Mount::new(&point)?;
        let mut config = stage.config(directory)?;
        config.agent.bpffs = point.join("truepeer");
        let file = config.write()?.display().to_string();
        let command = |command: &str| -> Result<String> {
            let output = truepeer(&[command, "--config", &file])?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        Agent::start(directory, config.clone())?.kill()?;
        stage.are_steered(true)?;

        let second = Mount::new(&point)?;
        let said = command("doctor")?;
        ensure!(
            said.contains("are not pinned there now"),
            "the doctor says {said}"
        );
        let agent = Agent::start(directory, config.clone())?;
        stage.are_steered(true)?;
        let programs = stage.ingress().unwrap_or_default();
        ensure!(programs.len() <= 1, "two sets of programs: {programs:?}");
        ensure!(
            agent.log()?.contains("programs of an earlier agent"),
            "no warning"
        );
        agent.kill()?;

        // Nothing is pinned at all, and yet nothing is left.
        let third = Mount::new(&point)?;
        let said = command("detach")?;
        ensure!(
            said.contains("nothing of truepeer is left"),
            "detach says {said}"
        );
        stage.are_steered(false)?;
        drop((third, second, first));
        before.assert_unchanged(&stage.sidecar.pod.enter(Traces::here)?)
    });
}

/// While an agent runs.
#[test]
fn pins_that_are_covered_and_come_back() {
    scenario(|directory| {
        let stage = Stage::new()?;
        let point = directory.join("bpf");
        std::fs::create_dir(&point)?;
        let _first = Mount::new(&point)?;
        let mut config = stage.config(directory)?;
        config.agent.bpffs = point.join("truepeer");
        let agent = Agent::start(directory, config)?;
        let mut cover = None;
        agent.says("no longer at", || {
            cover = Some(Mount::new(&point)?);
            Ok(())
        })?;
        stage.are_steered(true)?;
        agent.says("are back", || {
            drop(cover);
            Ok(())
        })?;
        stage.are_steered(true)?;
        let complaints = agent.log()?.matches("no longer at").count();
        ensure!(complaints == 1, "told {complaints} times");
        ensure!(agent.stop()?.success(), "the agent's exit status");
        stage.are_steered(false)
    });
}
