//! The machine at the other end of a [`Pair`]'s cable: it does what a scenario on this machine asks for.
//!
//! A connection over the cable is one task: a line of JSON each way, the task and its outcome. What the task started
//! goes on until the scenario closes its side, and has ended when the peer closes the other.

use std::any::Any;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::addresses::any;
use crate::agent::{believing, telling};
use crate::clients::exchange::{serve, with_server};
use crate::host::listener::Listener;
use crate::host::netns::Netns;
use crate::proxies::own::connect_from;
use crate::topology::{Family, Pair, Sidecar};
use crate::wait::{Limit, within};

/// Where the peer takes tasks.
const PORT: u16 = 4700;
/// How long its machine may take to boot: it began with this one.
const BOOT: Limit = Limit::secs(60);
/// How long a task may take.
const TASK: Limit = Limit::secs(120);

/// What the peer does.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// Connects in the name of a client and exchanges blocks; the outcome is whom the server sees.
    Exchange {
        /// The client.
        source: SocketAddr,
        /// The server.
        target: SocketAddr,
        /// What goes in front of everything else.
        header: Vec<u8>,
        /// How many blocks go each way.
        blocks: u64,
    },
    /// Serves those who exchange blocks, on this port.
    Serve(u16),
    /// Runs an agent which tells the pod by TOA in whose name the peer connects.
    Tell,
    /// Runs an agent which believes the pod.
    Believe,
}

/// Whom the server saw, if the task was to ask, or why the task failed.
type Outcome = Result<Option<SocketAddr>, String>;

/// What a task has started on the peer. It has ended when the value is dropped.
pub struct Started(TcpStream);

impl Drop for Started {
    fn drop(&mut self) {
        let ended = self
            .0
            .shutdown(Shutdown::Write)
            .and_then(|()| self.0.read_to_end(&mut Vec::new()));
        if let Err(error) = ended {
            eprintln!("what the peer started may go on: {error}");
        }
    }
}

/// Has the peer start something for a scenario.
///
/// # Errors
///
/// When the peer cannot be reached, and its own.
pub fn start(pair: &Pair, task: &Task) -> Result<Started> {
    ask(&pair.netns, task)
        .map(|(started, _)| started)
        .with_context(|| format!("the peer: {task:?}"))
}

/// Has the peer exchange blocks with a server in the name of `source`. Returns whom the server saw.
///
/// # Errors
///
/// As those of [`start`], and when a byte is not what was sent.
pub fn exchange(
    pair: &Pair,
    source: SocketAddr,
    target: SocketAddr,
    header: &[u8],
    blocks: u64,
) -> Result<SocketAddr> {
    let task = Task::Exchange {
        source,
        target,
        header: header.to_owned(),
        blocks,
    };
    let what = || {
        format!(
            "the peer, from {source} to {target}, a header of {}",
            header.len()
        )
    };
    let (_, seen) = ask(&pair.netns, &task).with_context(what)?;
    seen.with_context(what)
}

fn ask(netns: &Netns, task: &Task) -> Result<(Started, Option<SocketAddr>)> {
    let peer = (Sidecar::sender(Family::V4), PORT).into();
    let mut stream = within(BOOT, "the peer takes tasks", || {
        Ok(netns
            .enter(|| TcpStream::connect_timeout(&peer, BOOT.here()))
            .ok())
    })?;
    stream.set_read_timeout(Some(TASK.here()))?;
    writeln!(stream, "{}", serde_json::to_string(task)?)?;
    let mut answer = String::new();
    let read = BufReader::new(&stream).read_line(&mut answer);
    TASK.await_io("the peer's answer", read)?;
    let outcome: Outcome = serde_json::from_str(&answer)?;
    Ok((Started(stream), outcome.map_err(anyhow::Error::msg)?))
}

/// The peer, on its machine: takes tasks until dropped.
pub struct Peer {
    #[expect(dead_code, reason = "stops on drop")]
    listener: Listener,
    #[expect(dead_code, reason = "unplugged on drop")]
    pair: Pair,
}

impl Peer {
    /// Plugs the cable in and takes tasks.
    pub fn start() -> Result<Self> {
        let pair = Pair::client()?;
        let listener = Listener::start(&pair.netns, any(PORT), false, |stream, _| take(stream))?;
        Ok(Self { listener, pair })
    }
}

fn take(mut stream: TcpStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let directory = tempfile::tempdir()?;
    let played = serde_json::from_str(&line)
        .map_err(anyhow::Error::from)
        .and_then(|task| play(task, directory.path()));
    let (outcome, started): (Outcome, _) = match played {
        Ok(Played::Saw(client)) => (Ok(Some(client)), None),
        Ok(Played::Started(started)) => (Ok(None), Some(started)),
        Err(error) => (Err(format!("{error:#}")), None),
    };
    writeln!(stream, "{}", serde_json::to_string(&outcome)?)?;
    // The scenario closes its side when it is done.
    stream.read_to_end(&mut Vec::new())?;
    drop(started);
    Ok(())
}

enum Played {
    Saw(SocketAddr),
    Started(Box<dyn Any>),
}

/// Does a task on the calling thread, which is in the client's namespace.
fn play(task: Task, directory: &Path) -> Result<Played> {
    let networks = Sidecar::networks();
    Ok(match task {
        Task::Exchange {
            source,
            target,
            header,
            blocks,
        } => {
            let stream = connect_from(source, target, 0)?;
            Played::Saw(with_server(stream, &header, blocks)?)
        }
        Task::Serve(port) => {
            Played::Started(Box::new(Listener::start_here(any(port), false, serve)?))
        }
        Task::Tell => Played::Started(Box::new(telling(directory, networks)?)),
        Task::Believe => Played::Started(Box::new(believing(directory, networks)?)),
    })
}
