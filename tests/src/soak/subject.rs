//! The agent under test, its versions and its configurations.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::promise::Change;
use super::stage::Stage;
use crate::addresses::any;
use crate::agent::spoilt::{REFUSED, spoilt};
use crate::agent::version::{KNOWN, NEEDED};
use crate::agent::{Agent, Config, Policy, Relay, Steer, Trust, Unwrap, binary};
use crate::random::Random;
use crate::wait::eventually;

/// The agent under test.
pub(super) struct Subject {
    directory: PathBuf,
    /// Each with its name: this version, and two others.
    versions: [(PathBuf, &'static str); 3],
    version: usize,
    /// `None` while there is none.
    agent: Option<Agent>,
    good: Config,
    /// What the agent has read last.
    read: Config,
}

impl Subject {
    /// Starts the first agent.
    pub(super) fn new(directory: PathBuf, good: Config) -> Result<Self> {
        let mut subject = Self {
            versions: [
                (binary()?, "this version"),
                (
                    KNOWN.another_version(&directory)?,
                    "a version that knows other things",
                ),
                (
                    NEEDED.another_version(&directory)?,
                    "a version that translates otherwise",
                ),
            ],
            version: 0,
            agent: None,
            directory,
            read: good.clone(),
            good,
        };
        subject.start()?;
        Ok(subject)
    }

    /// The agent that runs.
    pub(super) fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("an agent")
    }

    fn take(&mut self) -> Result<Agent> {
        self.agent.take().context("an agent")
    }

    /// Starts an agent.
    pub(super) fn start(&mut self) -> Result<()> {
        let (version, _) = &self.versions[self.version];
        let agent = Agent::start_binary(version, &self.directory, self.good.clone())?;
        self.agent = Some(agent);
        self.read = self.good.clone();
        Ok(())
    }

    /// Kills the agent.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.take()?.kill().map(drop)
    }

    /// Stops the agent in order.
    pub(super) fn stop(&mut self) -> Result<()> {
        ended(self.take()?)
    }

    /// Has another agent take over; returns the former one.
    pub(super) fn take_over(&mut self) -> Result<Agent> {
        let mut agent = self.take()?;
        let (version, _) = &self.versions[self.version];
        let former = agent.follow_by(version, &self.directory)?;
        self.agent = Some(agent);
        self.read = self.good.clone();
        Ok(former)
    }

    /// The next agent is of another version. Returns what is different about it for connections, and its name.
    pub(super) fn change_version(&mut self, random: &Random) -> (Vec<Change>, &'static str) {
        const DIFFERENT: [(usize, Change); 2] = [(1, Change::KnowsOther), (2, Change::NeedsOther)];
        let former = self.version;
        self.version = (former + 1 + random.below(2)) % self.versions.len();
        let is_either = |version| [former, self.version].contains(&version);
        let changes = DIFFERENT
            .into_iter()
            .filter(|(version, _)| is_either(*version));
        (
            changes.map(|(_, change)| change).collect(),
            self.versions[self.version].1,
        )
    }

    /// A configuration that serves every way and differs in what else it has, with what that changes and what it is.
    pub(super) fn another_good_one(
        &self,
        stage: &Stage,
        random: &Random,
    ) -> (Change, Config, String) {
        let mut config = self.good.clone();
        let server = &stage.gateway.server;
        let mut with = vec!["the same"];
        if random.once_in(2) {
            with.push("a policy");
            config.policy.push(Policy {
                name: "strangers".into(),
                ports: vec!["8080-8086".into()],
                deny: vec!["192.0.2.0/24".into(), "2001:db8:d::/48".into()],
                ..Policy::default()
            });
        }
        if random.once_in(2) {
            with.push("another unwrap");
            config
                .unwrap
                .push(Unwrap::new(server, "eth0", &["8100-8110"]));
        }
        if random.once_in(2) {
            with.push("another steer");
            config
                .steer
                .push(Steer::new("more", server, &["8120"], 8121));
        }
        if random.once_in(2) {
            with.push("another relay");
            config.relay.push(Relay {
                listen: any(9090),
                ..config.relay[0].clone()
            });
        }
        if random.once_in(2) {
            with.push("another rule");
            config.trust.extend(Trust::sources(["192.0.2.0/24"]));
        }
        let change = if self.read.trust.len() == config.trust.len() {
            Change::Read
        } else {
            Change::Trusts
        };
        (change, config, with.join(" and "))
    }

    /// Has the agent read a configuration.
    pub(super) fn reload(&mut self, config: Config) -> Result<()> {
        self.agent()?.reload(&config)?;
        self.read = config;
        Ok(())
    }

    /// Has the agent refuse a bad configuration; returns what was bad.
    pub(super) fn refuse(&self, random: &Random) -> Result<&'static str> {
        let agent = self.agent()?;
        let mut spoilt = spoilt(&self.good)?;
        let n = random.below(spoilt.len() + 1);
        let (name, config) = if n < spoilt.len() {
            let (name, config) = spoilt.swap_remove(n);
            (name, Some(config))
        } else {
            ("that is no configuration", None)
        };
        agent.says(REFUSED, || {
            match config {
                Some(config) => drop(config.write()?),
                None => std::fs::write(self.good.write()?, "[[unwrap]")?,
            }
            agent.signal(Signal::SIGHUP)
        })?;
        Ok(name)
    }

    /// The end: the last agent stops in order, when it knows nobody any more.
    pub(super) fn end(mut self) -> Result<()> {
        let agent = self.agent()?;
        eventually("every origin is removed", || {
            Ok((agent.origins()? == 0).then_some(()))
        })
        .with_context(|| format!("left: {:?}", agent.answer("/v1/peers")))?;
        self.stop()
    }
}

/// Stops an agent in order.
pub(super) fn ended(agent: Agent) -> Result<()> {
    let status = agent.stop()?;
    ensure!(status.success(), "the agent's exit status is {status}");
    Ok(())
}
