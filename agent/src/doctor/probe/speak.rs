//! Somebody who speaks for a client.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    thread,
};

use agent_common::{Claim, Evidence, origin::rule_id};
use anyhow::{Context, Result};
use nix::{errno::Errno, libc};
use socket2::{Domain, Socket, Type};

use super::stage::{Family, Stage, TIMEOUT, accept};
use crate::datapath::Datapath;

/// What clients connect to.
pub(super) const PORT: u16 = 8080;
/// The port of a client that somebody speaks for.
const CLIENT_PORT: u16 = 4711;
/// A user that nobody is, so that the rule that trusts it concerns nobody else.
pub(super) const SPEAKER: u32 = 0x7470_6565;

/// The client that somebody speaks for.
pub(super) fn client(family: Family) -> SocketAddr {
    (family.absent, CLIENT_PORT).into()
}

/// Connects in the name of [`client`]: as the [`SPEAKER`], or, where this process may not become another user, as the relay
/// does. Returns what `accept()` said, its socket, and the sender's own address.
pub(super) fn speak(
    stage: &Stage<'_>,
    datapath: &Datapath,
    family: Family,
    listener: &TcpListener,
) -> Result<(SocketAddr, TcpStream, SocketAddr)> {
    let target = SocketAddr::new(family.node, PORT);
    let connect = || {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        match become_speaker() {
            Ok(()) => bind(&socket, client(family))?,
            // A container may lack CAP_SETUID.
            Err(Errno::EPERM) => claim(&socket, datapath, client(family))?,
            Err(error) => return Err(error.into()),
        }
        socket.connect_timeout(&target.into(), TIMEOUT)?;
        anyhow::Ok(TcpStream::from(socket))
    };
    let outgoing = stage.client.run(|| {
        thread::scope(|scope| {
            let speaker = scope.spawn(connect);
            speaker.join().expect("the thread does not panic")
        })
    })?;
    let (accepted, told) = accept(listener)?;
    Ok((told, accepted, outgoing.local_addr()?))
}

/// Has the calling thread, which ends with it, become the [`SPEAKER`].
fn become_speaker() -> Result<(), Errno> {
    // SAFETY: a system call without pointers. Unlike the C library's function, it changes this thread alone.
    let outcome = unsafe { libc::syscall(libc::SYS_setresuid, SPEAKER, SPEAKER, SPEAKER) };
    Errno::result(outcome).map(drop)
}

/// Binds the socket to a client's address, as a trusted proxy does.
fn bind(socket: &Socket, client: SocketAddr) -> Result<()> {
    let granted = if client.is_ipv4() {
        socket.set_ip_transparent_v4(true)
    } else {
        socket.set_ip_transparent_v6(true)
    };
    granted.context("a trusted process was not granted a client's address")?;
    Ok(socket.bind(&client.into())?)
}

/// Has the socket speak for a client, as the relay does.
fn claim(socket: &Socket, datapath: &Datapath, client: SocketAddr) -> Result<()> {
    let claim = Claim {
        client: client.into(),
        rule: rule_id("probe"),
        evidence: Evidence::Bind as u8,
        conditions: Claim::CARRIED,
        ..Claim::default()
    };
    datapath.claims()?.claim(socket.as_fd(), claim)
}
