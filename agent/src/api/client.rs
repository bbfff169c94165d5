//! The API's client.

use std::{io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, StatusCode, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The agent's answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The body: JSON, except for the paths of metrics and health.
    pub body: Bytes,
}

impl Reply {
    /// The reason that the agent gives for an error.
    pub fn reason(&self) -> String {
        let body = serde_json::from_slice(&self.body).ok();
        let reason = body.and_then(|body: Value| Some(body.get("error")?.as_str()?.to_owned()));
        reason.unwrap_or_else(|| format!("the agent answered {}", self.status))
    }
}

/// Asks the agent at `socket`; `None` when no agent runs there.
///
/// # Errors
///
/// When the agent cannot be reached for another reason, breaks off, or does not answer in time.
pub async fn ask(socket: &Path, method: Method, path: &str) -> Result<Option<Reply>> {
    let Some(stream) = connect(socket).await? else {
        return Ok(None);
    };
    let answer = timeout(PATIENCE, exchange(stream, method, path))
        .await
        .with_context(|| format!("the agent has not answered for {} s", PATIENCE.as_secs()))?;
    answer
        .map(Some)
        .with_context(|| format!("the agent at {} broke off", socket.display()))
}

/// The process id of the agent that listens at `socket`; `None` when none does, or in a pid namespace that this process cannot
/// see.
///
/// # Errors
///
/// When the agent cannot be reached for another reason.
pub async fn listener(socket: &Path) -> Result<Option<i32>> {
    let stream = connect(socket).await?;
    // The kernel remembers who has begun to listen.
    let credentials = stream.map(|stream| stream.peer_cred()).transpose()?;
    let pid = credentials.and_then(|credentials| credentials.pid());
    Ok(pid.filter(|pid| *pid > 0))
}

/// Connects to the agent at `socket`; `None` when no agent runs there.
async fn connect(socket: &Path) -> Result<Option<UnixStream>> {
    match UnixStream::connect(socket).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error)
            .with_context(|| format!("cannot connect to the agent at {}", socket.display())),
    }
}

async fn exchange(stream: UnixStream, method: Method, path: &str) -> Result<Reply> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok(Reply { status, body })
}
