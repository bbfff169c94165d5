//! What this crate's program does besides showing the playground: as a user without capabilities, and in
//! containers.

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use nix::sys::prctl::set_name;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::listener::set_transparent;
use crate::netns::{Netns, run};
use crate::process::{Process, Route, unique};
use crate::proxy::Proxy;
use crate::report::Report;

/// The user of Istio's proxies.
pub const UID: u32 = 1337;
/// A user that every host knows by name.
pub const NOBODY: u32 = 65534;

/// What the program does.
#[derive(Subcommand)]
pub enum Role {
    /// A proxy that binds its upstream sockets to the client's address and port
    #[command(hide = true)]
    Bind {
        /// Pairs: where it listens, and where it connects to
        routes: Vec<SocketAddr>,
    },
    /// Likewise a proxy that iptables redirect connections to
    #[command(hide = true)]
    Redirected {
        /// Where it listens
        listen: SocketAddr,
    },
    /// Does nothing
    #[command(hide = true)]
    Pause,
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

/// The kernel's answers: an error number each, or nothing when it grants the request.
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
    /// Plays it; a proxy serves until it is killed.
    pub fn play(self) -> Result<()> {
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

/// Starts [`Role::Redirected`] likewise.
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

/// A new directory in `parent` that belongs to this user.
pub fn directory(parent: &Path, name: &str, uid: u32) -> Result<PathBuf> {
    let path = parent.join(name);
    fs::create_dir(&path).with_context(|| path.display().to_string())?;
    chown(&path, Some(uid), Some(uid))?;
    // PostgreSQL wants its own to be its own.
    fs::set_permissions(&path, Permissions::from_mode(0o700))?;
    Ok(path)
}

/// A command that runs inside `netns` as this user, or as root.
pub(crate) fn command_of(netns: &Netns, uid: Option<u32>, program: &str) -> Result<Command> {
    match uid {
        None => netns.command(program),
        Some(uid) => command(netns, uid, program.as_ref()),
    }
}

/// A command that runs inside `netns` as this user, without capabilities.
pub fn command(netns: &Netns, uid: u32, program: &Path) -> Result<Command> {
    ensure!(uid != 0, "root has capabilities");
    // Opened here: the user may be unable to reach it by its path.
    let file = File::open(program).with_context(|| program.display().to_string())?;
    let mut command = netns.command(&format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    command.arg0(program);
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    // SAFETY: between fork and exec the closure makes three system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            // It stays open as long as the command can be run.
            let _ = &file;
            setgroups(&[])?;
            setresgid(group, group, group)?;
            Ok(setresuid(user, user, user)?)
        });
    }
    Ok(command)
}
