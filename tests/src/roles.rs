//! What this crate's program does besides showing the playground: as a user without capabilities, and in
//! containers.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use clap::Subcommand;
use nix::sys::prctl::set_name;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::listener::set_transparent;
use crate::host::netns::{Netns, run};
use crate::host::process::{Process, unique};
use crate::host::user::{UID, command};
use crate::peer::Peer;
use crate::proxies::Route;
use crate::proxies::own::Proxy;
use crate::servers::report::Report;
use crate::wait::factor;

/// What the program does.
#[derive(Subcommand)]
pub enum Role {
    /// A proxy that binds its upstream sockets to the client's address and port
    #[command(hide = true)]
    Bind {
        /// Pairs: where it listens, and where it connects to
        routes: Vec<SocketAddr>,
    },
    /// A proxy that binds to the client's address and port, and to which iptables redirect connections
    #[command(hide = true)]
    Redirected {
        /// Where it listens
        listen: SocketAddr,
    },
    /// Does nothing
    #[command(hide = true)]
    Pause,
    /// Has the cable's other end on a machine of its own, and does what scenarios ask for
    #[command(hide = true)]
    Peer,
    /// Tells each client whom it sees
    #[command(hide = true)]
    Report {
        /// Where it listens
        listen: SocketAddr,
    },
    /// A sidecar's transparent proxy, as root
    #[command(hide = true)]
    Sidecar {
        /// Where it listens
        listen: SocketAddr,
        /// The mark of what it sends
        mark: u32,
    },
    /// Asks for what needs a capability, and prints the kernel's answers
    #[command(hide = true)]
    Ask {
        /// An address that is not this host's
        foreign: SocketAddr,
    },
}

/// The kernel's answers: for each request an error number, or `None` when the kernel grants it.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// `setsockopt(IP_TRANSPARENT)` or its IPv6 twin.
    pub transparent: Option<i32>,
    /// `setsockopt(SO_MARK)`.
    pub mark: Option<i32>,
    /// `bind()`.
    pub bind: Option<i32>,
}

impl Role {
    /// Plays the role. A proxy serves until it is killed.
    pub fn play(self) -> Result<()> {
        // The factor of time is measured here, unless it is set, and not while the first client waits.
        factor();
        match self {
            Self::Bind { routes } => {
                set_name(c"binding-proxy")?;
                let _proxies = routes
                    .chunks_exact(2)
                    .map(|route| Proxy::binding(route[0], route[1]))
                    .collect::<Result<Vec<_>>>()?;
                forever()
            }
            Self::Redirected { listen } => {
                set_name(c"redirected")?;
                let _proxy = Proxy::redirected(listen, |client| client)?;
                forever()
            }
            Self::Pause => forever(),
            Self::Peer => {
                let _peer = Peer::start()?;
                forever()
            }
            Self::Report { listen } => {
                let _report = Report::start_here(listen)?;
                forever()
            }
            Self::Sidecar { listen, mark } => {
                let _proxy = Proxy::sidecar_here(listen, mark)?;
                forever()
            }
            Self::Ask { foreign } => {
                println!("{}", serde_json::to_string(&answers(foreign)?)?);
                Ok(())
            }
        }
    }
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

fn answers(foreign: SocketAddr) -> Result<Answers> {
    let domain = Domain::for_address(foreign);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    let errno = |result: std::io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    Ok(Answers {
        transparent: errno(set_transparent(&socket, domain)),
        mark: errno(socket.set_mark(1)),
        bind: errno(socket.bind(&foreign.into())),
    })
}

/// Starts [`Role::Bind`] as [`UID`] and waits until it listens; `program` is this crate's.
pub fn proxy(directory: &Path, netns: &Netns, program: &Path, routes: &[Route]) -> Result<Process> {
    let mut command = command(netns, UID, program)?;
    command.arg("bind");
    for (listen, upstream) in routes {
        command.args([listen.to_string(), upstream.to_string()]);
    }
    let listen = routes.iter().map(|(listen, _)| *listen);
    start("binding-proxy", directory, netns, command, listen)
}

/// Starts [`Role::Redirected`] as [`UID`] and waits until it listens; `program` is this crate's.
pub fn redirected(
    directory: &Path,
    netns: &Netns,
    program: &Path,
    listen: SocketAddr,
) -> Result<Process> {
    let mut command = command(netns, UID, program)?;
    command.args(["redirected", &listen.to_string()]);
    start("redirected", directory, netns, command, [listen])
}

fn start(
    name: &str,
    directory: &Path,
    netns: &Netns,
    command: Command,
    listen: impl IntoIterator<Item = SocketAddr>,
) -> Result<Process> {
    let mut process = Process::start(&unique(name), command, directory)?;
    process.wait_until_it_listens(netns, listen)?;
    Ok(process)
}

/// What [`Role::Ask`] prints as this user.
pub fn ask(netns: &Netns, uid: u32, program: &Path, foreign: SocketAddr) -> Result<Answers> {
    let mut command = command(netns, uid, program)?;
    let printed = run(command.args(["ask", &foreign.to_string()]))?;
    Ok(serde_json::from_str(&printed)?)
}
