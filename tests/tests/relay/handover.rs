//! One agent follows another, and no connection to a relay is refused: by a takeover, or with sockets that systemd keeps.

use std::collections::BTreeMap;
use std::io::{IoSliceMut, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::dup2_raw;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, binary};
use tests::balancer::{APPLICATION, config, crowd, plain, relay_of};
use tests::clients::load::PING;
use tests::clients::tcp::{connect, seen};
use tests::host::scenario;
use tests::proxies::any;
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};
use tests::wait::eventually;

/// Where somebody else listens.
const TAKEN: u16 = 9002;

#[test]
fn an_agent_that_takes_over_under_load() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let mut agent = Agent::start(directory, config(directory, plain(&topology))?)?;
        let load = crowd();
        let mut held = load.hold(&topology.client)?;
        let (mut former, outcome) = load.during(&topology.client, |progress| {
            let mut former = Vec::new();
            for _ in 0..3 {
                former.push(agent.follow(directory)?);
                progress.more("with another agent")?;
            }
            Ok(former)
        })?;
        outcome.all_exact()?;
        // What the first has begun goes on there, and it stays until it is told to stop.
        for connection in &mut held {
            connection.ping()?;
        }
        for agent in &mut former {
            ensure!(agent.exited()?.is_none(), "nobody has told it to stop");
        }
        let first = former.remove(0);
        for agent in former {
            ensure!(
                agent.stop()?.success(),
                "the exit status of one that was followed"
            );
        }
        held.iter_mut()
            .try_for_each(|connection| connection.ping())?;
        let said = "connections of relays go on in this process";
        ensure!(first.log()?.contains(said), "what goes on is told");
        drop(held);
        ensure!(first.stop()?.success(), "the first agent's exit status");
        load.run(&topology.client).all_exact()?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the last agent's exit status");
        Ok(())
    });
}

/// Who keeps what is in place has nothing to wait for when it stops but what its relays have begun.
#[test]
fn an_agent_that_is_followed_while_it_stops() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let mut config = config(directory, plain(&topology))?;
        config.agent.keep = true;
        let mut agent = Agent::start(directory, config)?;
        let load = crowd();
        let mut held = load.hold(&topology.client)?;
        agent.says("waiting for", || agent.signal(Signal::SIGTERM))?;
        let mut former = agent.follow(directory)?;
        load.run(&topology.client).all_exact()?;
        held.iter_mut()
            .try_for_each(|connection| connection.ping())?;
        ensure!(former.exited()?.is_none(), "it drains");
        drop(held);
        eventually("the former agent ends", || former.exited())?;
        let mut last = agent.config().clone();
        last.agent.keep = false;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        let last = Agent::start(directory, last)?;
        no_origins(&last)?;
        ensure!(last.stop()?.success(), "the last agent's exit status");
        Ok(())
    });
}

/// Whose successor fails goes on: who waits is served, and what was begun goes on.
#[test]
fn an_agent_that_is_followed_in_vain() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let mut agent = Agent::start(directory, config(directory, plain(&topology))?)?;
        let load = crowd();
        let mut held = load.hold(&topology.client)?;
        let mut bad = agent.config().clone();
        let mut taken = bad.relay[0].clone();
        let _other = Report::start(&topology.server, any(TAKEN))?;
        taken.listen = any(TAKEN);
        bad.relay.push(taken);
        let (more, outcome) = load.during(&topology.client, |progress| {
            let said = agent.is_followed_in_vain(&bad)?;
            ensure!(said.contains("cannot listen"), "{said}");
            progress.more("after a successor that did not start")?;
            let more = load.hold(&topology.client)?;
            // Asked by somebody who dies before it follows.
            agent.says("this one goes on", || agent.signal(Signal::SIGUSR2))?;
            progress.more("after a successor that never came")?;
            Ok(more)
        })?;
        outcome.all_exact()?;
        held.extend(more);
        held.iter_mut()
            .try_for_each(|connection| connection.ping())?;
        // It is an agent as before, which another can follow.
        agent.reload(agent.config())?;
        let former = agent.follow(directory)?;
        held.iter_mut()
            .try_for_each(|connection| connection.ping())?;
        let said = "no connection is left";
        ensure!(!former.log()?.contains(said), "what goes on is known");
        drop(held);
        ensure!(former.stop()?.success(), "the former agent's exit status");
        load.run(&topology.client).all_exact()?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// What systemd does for a service with `FileDescriptorStoreMax=`.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
    kept: BTreeMap<String, OwnedFd>,
}

impl Systemd {
    fn new(directory: &Path) -> Result<Self> {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            path,
            kept: BTreeMap::new(),
        })
    }

    /// Starts the service, with what it has kept.
    fn start(&mut self, directory: &Path, config: Config) -> Result<Agent> {
        self.listen()?;
        // The agent checks that the sockets are meant for its own process.
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
            .arg(binary()?)
            .args(["run", "--config"])
            .arg(config.write()?)
            .env("NOTIFY_SOCKET", &self.path)
            .env("LISTEN_FDS", self.kept.len().to_string());
        let kept: Vec<RawFd> = self.kept.values().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: between fork and exec the closure makes system calls only; nothing else uses the numbers from 3 on there.
        unsafe {
            command.pre_exec(move || {
                for (fd, to) in kept.iter().zip(3..) {
                    let _ = dup2_raw(BorrowedFd::borrow_raw(*fd), to)?.into_raw_fd();
                }
                Ok(())
            });
        }
        Agent::start_command(command, directory, config)
    }

    /// Does what the service has asked for.
    fn listen(&mut self) -> Result<()> {
        loop {
            let mut text = [0; 512];
            let mut space = nix::cmsg_space!([RawFd; 4]);
            let mut parts = [IoSliceMut::new(&mut text)];
            let fd = self.socket.as_raw_fd();
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let Ok(message) = recvmsg::<()>(fd, &mut parts, Some(&mut space), flags) else {
                return Ok(());
            };
            let mut passed = Vec::new();
            for part in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = part {
                    // SAFETY: the kernel has just made them for this process.
                    passed.extend(
                        fds.into_iter()
                            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                    );
                }
            }
            let length = message.bytes;
            let text = std::str::from_utf8(&text[..length])?;
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            let Some(name) = name.map(str::to_owned) else {
                ensure!(passed.is_empty(), "every socket has a name");
                continue;
            };
            if text.contains("FDSTOREREMOVE=1") {
                self.kept.remove(&name);
            } else {
                let socket = passed.pop().context("a socket is passed")?;
                // Out of the way of the numbers that it is passed on by.
                let number = fcntl(&socket, FcntlArg::F_DUPFD_CLOEXEC(100))?;
                // SAFETY: the kernel has just made it for this process.
                let socket = unsafe { OwnedFd::from_raw_fd(number) };
                // systemd knows the same socket again.
                self.kept.entry(name).or_insert(socket);
            }
        }
    }
}

#[test]
fn sockets_that_systemd_keeps() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let mut systemd = Systemd::new(directory)?;
        let mut agent = systemd.start(directory, config(directory, plain(&topology))?)?;
        for _ in 0..2 {
            // A crash: whoever connects meanwhile waits.
            let config = agent.kill()?;
            systemd.listen()?;
            ensure!(systemd.kept.len() == 2, "{:?}", systemd.kept.keys());
            let waiting: Vec<TcpStream> = Family::ALL
                .into_iter()
                .map(|family| connect(&topology.client, relay_of(family)))
                .collect::<Result<_>>()?;
            agent = systemd.start(directory, config)?;
            for mut stream in waiting {
                let client = stream.local_addr()?;
                let seen = seen(&mut stream)?;
                ensure!(seen.accepted == client, "{client} is seen as {seen:?}");
                stream.write_all(PING)?;
            }
        }
        // A relay that is no longer wanted is kept no longer.
        let mut config = agent.config().clone();
        config.relay.pop();
        agent.reload(&config)?;
        eventually("one socket is kept", || {
            systemd.listen()?;
            Ok((systemd.kept.len() == 1).then_some(()))
        })?;
        ensure!(
            connect(&topology.client, relay_of(Family::V6)).is_err(),
            "nobody listens"
        );
        agent.stop().map(drop)
    });
}
