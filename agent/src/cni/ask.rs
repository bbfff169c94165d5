//! What the plugin asks of the agent.

use std::{
    io::{Write as _, stderr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use hyper::{Method, StatusCode};
use tokio::{runtime, time::timeout};

use super::network::{Network, OnAgentDown};
use crate::{api::client, workloads::pods::Id};

/// How long the agent may take: a runtime waits for the plugin.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a request.
pub(super) enum Verdict {
    /// It is done.
    Done,
    /// The agent does not know the attachment.
    Unknown(String),
    /// It can't be done, however often it is asked for.
    Refused(String),
    /// There is no agent, or it fails: why.
    Down(String),
}

/// Asks the agent to do something about an attachment.
pub(super) fn ask(network: &Network, method: Method, id: &Id) -> Verdict {
    let query = serde_urlencoded::to_string(id).expect("strings only");
    verdict(&network.socket, method, &format!("/v1/pod?{query}"))
}

/// Asks the agent whether it serves.
pub(super) fn is_ready(network: &Network) -> Verdict {
    verdict(&network.socket, Method::GET, "/readyz")
}

fn verdict(socket: &Path, method: Method, path: &str) -> Verdict {
    let answer = match exchange(socket, method, path) {
        Ok(Some(answer)) => answer,
        Ok(None) => return Verdict::Down(format!("no agent answers at {}", socket.display())),
        Err(error) => return Verdict::Down(format!("{error:#}")),
    };
    match answer.status {
        status if status.is_success() => Verdict::Done,
        StatusCode::NOT_FOUND => Verdict::Unknown(answer.reason()),
        status if status.is_client_error() => Verdict::Refused(answer.reason()),
        _ => Verdict::Down(answer.reason()),
    }
}

fn exchange(socket: &Path, method: Method, path: &str) -> Result<Option<client::Reply>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let answer = timeout(PATIENCE, client::ask(socket, method, path)).await;
        answer
            .with_context(|| format!("the agent has not answered for {} s", PATIENCE.as_secs()))?
    })
}

impl Network {
    /// Whether to go on without an agent, which is then said on standard error; runtimes log that.
    pub(super) fn goes_on(&self, reason: &str) -> bool {
        let is_open = self.on_agent_down == OnAgentDown::Open;
        if is_open {
            warn(reason);
        }
        is_open
    }
}

/// Says on standard error what does not keep the plugin from succeeding.
pub(super) fn warn(reason: &str) {
    let _ = writeln!(stderr(), "truepeer: {reason}");
}
