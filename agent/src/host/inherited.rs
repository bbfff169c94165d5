//! Listening sockets that outlive the process that made them: those of a process that runs, and those that systemd keeps.

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, FromRawFd as _, OwnedFd},
};

use anyhow::Result;
use rustix::{
    net::sockopt::{socket_acceptconn, socket_cookie},
    process::{PidfdFlags, getpid, pidfd_open},
};
use sd_notify::NotifyState;
use tracing::warn;

use super::{netns::cookie_of, processes::listeners_of, service::told};

/// Listening TCP sockets that another process has made, each once.
#[derive(Default)]
pub struct Inherited(Vec<TcpListener>);

impl Inherited {
    /// Those that systemd passes on: of socket units, and those [`Kept`] for a former process of this service. To be called
    /// once in a process.
    pub fn of_systemd() -> Self {
        let mut inherited = Self::default();
        match sd_notify::listen_fds() {
            // SAFETY: systemd opened them for this process, and nobody else here takes them.
            Ok(passed) => inherited.add(passed.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })),
            Err(error) => warn!("cannot take the sockets that systemd passes on: {error}"),
        }
        inherited
    }

    /// Copies of those on which this process listens.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to copy them.
    pub fn of_this_process() -> Result<Self> {
        let mut inherited = Self::default();
        let this = getpid();
        let process = pidfd_open(this, PidfdFlags::empty())?;
        inherited.add(listeners_of(process, this.as_raw_pid())?);
        Ok(inherited)
    }

    /// Adds those of `sockets` that are listening TCP sockets and not among them yet; the others are closed.
    pub fn add(&mut self, sockets: impl IntoIterator<Item = OwnedFd>) {
        let mut known: HashSet<_> = self
            .0
            .iter()
            .filter_map(|s| socket_cookie(s).ok())
            .collect();
        for socket in sockets {
            let listens = socket_acceptconn(&socket).unwrap_or_default();
            let listener = TcpListener::from(socket);
            // Unix sockets have no such address.
            let is_tcp = listener.local_addr().is_ok();
            if listens && is_tcp && socket_cookie(&listener).is_ok_and(|c| known.insert(c)) {
                self.0.push(listener);
            }
        }
    }

    /// Takes the socket that listens on `address` in the network namespace with this cookie, if there is one.
    pub fn take(&mut self, address: SocketAddr, netns: u64) -> Option<TcpListener> {
        let is_it = |listener: &TcpListener| {
            listener.local_addr().is_ok_and(|local| local == address)
                && cookie_of(listener).is_ok_and(|cookie| cookie == netns)
        };
        let at = self.0.iter().position(is_it)?;
        Some(self.0.swap_remove(at))
    }

    /// Closes the rest.
    pub fn close(self) {
        for listener in &self.0 {
            Kept::by_systemd(listener).forget();
        }
    }
}

/// A socket that systemd keeps, so that it listens while no process of this service runs. Without systemd, or where the unit
/// has no `FileDescriptorStoreMax=`, nobody does.
pub struct Kept(String);

impl Kept {
    /// What systemd knows a socket by.
    fn by_systemd(listener: &TcpListener) -> Self {
        // A listening socket has a cookie, and no other has it before the next boot.
        let cookie = socket_cookie(listener).unwrap_or_default();
        Self(format!("relay-{cookie}"))
    }

    /// Has systemd keep it.
    pub fn keep(listener: &TcpListener) -> Self {
        let kept = Self::by_systemd(listener);
        let state = [NotifyState::FdStore, NotifyState::FdName(&kept.0)];
        told(sd_notify::notify_with_fds(&state, &[listener.as_fd()]));
        kept
    }

    /// Has systemd keep it no longer.
    pub fn forget(&self) {
        let state = [NotifyState::FdStoreRemove, NotifyState::FdName(&self.0)];
        told(sd_notify::notify(&state));
    }
}
