//! Where the commands that read get their answers: from the agent, or from the pins of one that died.

use std::{
    cell::Cell,
    io::{Write as _, stderr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use hyper::Method;
use serde::de::DeserializeOwned;
use tokio::runtime::{self, Runtime};

use crate::{
    api::client,
    config::Config,
    connections::{names::Names, origins::Origins},
    datapath::Pins,
    workloads::{containers::Containers, pods::Pods},
};

/// Which agent to ask.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Source {
    /// Configuration of the agent; without it, the default one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Unix socket of the agent; without it, the configuration's
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Source {
    /// Gets ready to ask.
    pub(super) fn open(&self) -> Result<Reader> {
        let config = Config::load(self.config.as_deref())?;
        let socket = self.socket.as_ref().unwrap_or(&config.agent.socket);
        Ok(Reader {
            containers: Containers::new(&config.agent.runtimes, Pods::default()),
            socket: socket.clone(),
            config,
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            told: Cell::new(false),
        })
    }
}

/// Asks the agent, or reads the pins.
pub(super) struct Reader {
    /// The agent's, as far as this command knows.
    pub(super) config: Config,
    /// What runs here, for when there is no agent.
    pub(super) containers: Containers,
    socket: PathBuf,
    runtime: Runtime,
    /// Whether it has been said that the agent is dead.
    told: Cell<bool>,
}

impl Reader {
    /// What the agent tells at `path`. When there is no agent, what `pins` reads instead.
    ///
    /// # Errors
    ///
    /// Also when the agent answers with an error: its reason.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        path: &str,
        pins: impl FnOnce(&dyn Origins, &Names) -> Result<T>,
    ) -> Result<T> {
        let Some(answer) = self
            .runtime
            .block_on(client::ask(&self.socket, Method::GET, path))?
        else {
            return self.read_pins(pins);
        };
        if answer.status.is_success() {
            return serde_json::from_slice(&answer.body)
                .context("the agent's answer is of another version");
        }
        bail!(answer.reason());
    }

    fn read_pins<T>(&self, read: impl FnOnce(&dyn Origins, &Names) -> Result<T>) -> Result<T> {
        let no_agent = format!("no agent answers at {}", self.socket.display());
        if !nix::unistd::geteuid().is_root() {
            bail!("{no_agent}, and only root can read what it has left: start it, or use `sudo`");
        }
        let pins = Pins::open(&self.config.agent.bpffs).with_context(|| {
            format!("{no_agent} (one that was started with `--config` needs the same here)")
        })?;
        if !self.told.replace(true) {
            let _ = writeln!(stderr(), "{no_agent}: read from the pins instead");
        }
        read(&pins, &Names::new(&self.config))
    }
}
