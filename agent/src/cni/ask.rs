//! Requests of the plugin to the agent.

use std::{
    io::{Write as _, stderr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use hyper::{Method, StatusCode};
use tokio::{runtime, time::timeout};

use super::netconf::{NetConf, OnAgentDown};
use crate::{api::client, workloads::pods::Id};

/// How long the agent may take to answer, as a runtime waits for the plugin.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the agent replied to a request.
pub(super) enum AgentReply {
    /// It has done what it was asked for.
    Done,
    /// It does not know the attachment.
    Unknown(String),
    /// It cannot do it: another attempt would fail too.
    Refused(String),
    /// There is no agent, or it failed.
    Down(String),
}

/// Sends a request about an attachment.
pub(super) fn ask(network: &NetConf, method: Method, id: &Id) -> AgentReply {
    let query = serde_urlencoded::to_string(id).expect("strings only");
    reply(&network.socket, method, &format!("/v1/pod?{query}"))
}

/// Asks the agent whether it is ready.
pub(super) fn is_ready(network: &NetConf) -> AgentReply {
    reply(&network.socket, Method::GET, "/readyz")
}

fn reply(socket: &Path, method: Method, path: &str) -> AgentReply {
    let answer = match exchange(socket, method, path) {
        Ok(Some(answer)) => answer,
        Ok(None) => return AgentReply::Down(format!("no agent answers at {}", socket.display())),
        Err(error) => return AgentReply::Down(format!("{error:#}")),
    };
    match answer.status {
        status if status.is_success() => AgentReply::Done,
        StatusCode::NOT_FOUND => AgentReply::Unknown(answer.reason()),
        status if status.is_client_error() => AgentReply::Refused(answer.reason()),
        _ => AgentReply::Down(answer.reason()),
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

impl NetConf {
    /// Whether to go on without an agent. If so, it warns on standard error, which runtimes log.
    pub(super) fn goes_on(&self, reason: &str) -> bool {
        let is_open = self.on_agent_down == OnAgentDown::Open;
        if is_open {
            warn(reason);
        }
        is_open
    }
}

/// Reports on standard error a failure that does not keep the plugin from succeeding.
pub(super) fn warn(reason: &str) {
    let _ = writeln!(stderr(), "truepeer: {reason}");
}
