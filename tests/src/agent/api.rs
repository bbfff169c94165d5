//! What the agent tells: its API, its metrics and its access log.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::wait::SOON;

/// A peer as the API shows it.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the API's own names")]
pub struct Peer {
    pub cookie: u64,
    pub protocol: String,
    pub client: SocketAddr,
    pub original_dst: SocketAddr,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub evidence: String,
    pub trusted_by: String,
    #[serde(default)]
    pub proxy: Value,
    pub namespace: Option<String>,
    pub pod: Option<String>,
    pub container: Option<String>,
}

/// Live connections with an origin.
#[derive(Clone, Debug)]
pub struct Peers(pub Vec<Peer>);

impl Peers {
    /// The connection between these two ends, or `None` where its origin is unknown.
    pub fn find(&self, local: SocketAddr, remote: SocketAddr) -> Option<&Peer> {
        self.0
            .iter()
            .find(|peer| peer.local == local && peer.remote == remote)
    }
}

/// Asks the API; returns the status and the body.
pub(super) fn get(socket: &Path, path: &str) -> Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON.here()))?;
    // With HTTP/1.0 the answer is not chunked, and ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    SOON.await_io(path, stream.read_to_string(&mut answer))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("no HTTP status in {head:?}"))?;
    Ok((status, body.to_owned()))
}
