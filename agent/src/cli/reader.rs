//! Reads from the agent or, when there is none, from the pins that it left.

use std::{
    cell::Cell,
    io::{Write as _, stderr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use hyper::Method;
use serde::de::DeserializeOwned;
use tokio::runtime::{self, Runtime};

use super::arguments::ReadArgs;
use crate::{
    api::client,
    config::Config,
    connections::{
        names::Names,
        origins::Origins,
        peers::{View, Viewer},
    },
    datapath::Pins,
    host::processes::Owners,
    workloads::{containers::Containers, pods::Pods},
};

/// Asks the agent, or reads the pins.
pub(super) struct Reader {
    /// The agent's configuration, as far as this command knows.
    pub(super) config: Config,
    /// The pods and containers of this host, for when there is no agent.
    containers: Containers,
    socket: PathBuf,
    runtime: Runtime,
    /// Whether the command has already said that there is no agent.
    has_warned: Cell<bool>,
}

impl Reader {
    /// Prepares to ask the agent.
    pub(super) fn new(args: &ReadArgs) -> Result<Self> {
        let config = args.config.load()?;
        let socket = args.socket.as_ref().unwrap_or(&config.agent.socket);
        Ok(Self {
            containers: Containers::new(&config.agent.runtimes, Pods::default()),
            socket: socket.clone(),
            config,
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            has_warned: Cell::new(false),
        })
    }

    /// The agent's answer at `path` or, when there is no agent, what `pins` reads instead.
    ///
    /// # Errors
    ///
    /// When the agent answers with an error, or neither agent nor pins can be read.
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

    /// The process id of the agent, as [`client::listener`] tells it.
    pub(super) fn listener(&self) -> Result<Option<i32>> {
        self.runtime.block_on(client::listener(&self.socket))
    }

    /// What tells of the processes and workloads of connections, all of which are shown, when there is no agent.
    pub(super) fn viewer<'a>(&'a self, names: &'a Names, owners: &'a Owners) -> Viewer<'a> {
        Viewer {
            names,
            containers: &self.containers,
            owners,
            view: View::All,
        }
    }

    fn read_pins<T>(&self, read: impl FnOnce(&dyn Origins, &Names) -> Result<T>) -> Result<T> {
        let no_agent = format!("no agent answers at {}", self.socket.display());
        if !nix::unistd::geteuid().is_root() {
            bail!("{no_agent}, and only root can read what it has left: start it, or use `sudo`");
        }
        let pins = Pins::open(&self.config.agent.bpffs).with_context(|| {
            format!("{no_agent} (one that was started with `--config` needs the same here)")
        })?;
        if !self.has_warned.replace(true) {
            let _ = writeln!(stderr(), "{no_agent}: read from the pins instead");
        }
        read(&pins, &Names::new(&self.config))
    }
}
