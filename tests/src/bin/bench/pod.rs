//! A pod for one measurement: client, application, and what is between them.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde::Serialize;
use tempfile::TempDir;
use tests::agent::{Agent, Config, Steer};
use tests::envoy;
use tests::istio::{self, INBOUND};
use tests::netns::Netns;
use tests::process::Process;
use tests::topology::{Family, Sidecar};

use crate::application::Application;

/// Where the application listens.
pub(crate) const PORT: u16 = 8080;
/// Envoy's mark: Istio's.
const MARK: u32 = 1337;

/// What is between client and application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// Nothing.
    Direct,
    /// Envoy, by Istio's iptables TINBOUND rules.
    Iptables,
    /// Envoy, by truepeer's steering, without an access log, as the rules have none.
    Truepeer,
    /// The same with an access log in a file.
    TruepeerLogging,
}

impl Variant {
    pub(crate) const ALL: [Self; 4] = [
        Self::Direct,
        Self::Iptables,
        Self::Truepeer,
        Self::TruepeerLogging,
    ];

    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Iptables => "iptables TINBOUND",
            Self::Truepeer => "truepeer",
            Self::TruepeerLogging => "truepeer + access log",
        }
    }
}

/// The pod, removed on drop: first what steers, then the rest.
pub(crate) struct Pod {
    agent: Option<Agent>,
    envoy: Option<Process>,
    _application: Application,
    sidecar: Sidecar,
    directory: TempDir,
    /// What is between client and application.
    pub(crate) variant: Variant,
    /// How the client connects.
    pub(crate) family: Family,
}

impl Pod {
    pub(crate) fn new(variant: Variant, family: Family, concurrency: u16) -> Result<Self> {
        let directory = directory()?;
        let sidecar = Sidecar::new()?;
        let application = Application::start(&sidecar.pod, PORT, concurrency)?;
        let envoy = (variant != Variant::Direct)
            .then(|| envoy::transparent(directory.path(), &sidecar.pod, INBOUND, MARK))
            .transpose()?;
        let agent = match variant {
            Variant::Direct => None,
            Variant::Iptables => {
                istio::tproxy(&sidecar.pod, directory.path())?;
                None
            }
            Variant::Truepeer | Variant::TruepeerLogging => {
                let logs = variant == Variant::TruepeerLogging;
                Some(start_agent(&directory, &sidecar, logs)?)
            }
        };
        Ok(Self {
            agent,
            envoy,
            _application: application,
            sidecar,
            directory,
            variant,
            family,
        })
    }

    /// The client's namespace.
    pub(crate) fn client(&self) -> &Netns {
        &self.sidecar.client
    }

    /// The application, as the client knows it.
    pub(crate) fn target(&self) -> SocketAddr {
        (Sidecar::address(self.family), PORT).into()
    }

    /// The processes besides this one, which is client and application.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let envoy = self.envoy.iter().map(Process::id);
        envoy.chain(self.agent.iter().map(Agent::id)).collect()
    }

    /// Removes it; fails if the agent did not stop well.
    pub(crate) fn remove(mut self) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            let bpffs = agent.config().agent.bpffs.clone();
            let log = self.directory.path().join("agent.log");
            let status = agent.stop()?;
            ensure!(
                status.success(),
                "the agent: {status}\n{}",
                std::fs::read_to_string(log)?
            );
            ensure!(!bpffs.exists(), "the agent left {}", bpffs.display());
        }
        Ok(())
    }
}

/// A directory for the files of a measurement.
pub(crate) fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("truepeer-bench-")
        .tempdir_in("/run")?)
}

/// Starts an agent that steers the pod's connections to the proxy.
pub(crate) fn start_agent(directory: &TempDir, sidecar: &Sidecar, logs: bool) -> Result<Agent> {
    let steer = Steer::new("inbound", &sidecar.pod, &["8080"], INBOUND).on(Sidecar::INTERFACE);
    let mut config = Config::new(directory.path(), [steer])?;
    if !logs {
        config.agent.access_log = "off".into();
    }
    Agent::start(directory.path(), config)
}
