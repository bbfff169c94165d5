//! Who asks.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use axum::http::StatusCode;
use tokio::net::UnixStream;

use super::{answer::Failure, places::Account};
use crate::{connections::peers::View, host::netns::Netns};

/// The process at the other end of the Unix socket; of one that comes by TCP nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Caller {
    /// Its user id; `None` if the kernel does not tell.
    pub(super) uid: Option<u32>,
    /// Its process id; `None` if it is in a pid namespace that this process cannot see.
    pub(super) pid: Option<i32>,
}

impl Caller {
    pub(super) fn of(stream: &UnixStream) -> Self {
        let credentials = stream.peer_cred().ok();
        Self {
            uid: credentials.map(|c| c.uid()),
            pid: credentials.and_then(|c| c.pid()).filter(|pid| *pid > 0),
        }
    }

    /// Whom its connections are counted for.
    pub(super) fn account(self) -> Account {
        if self.is_root() {
            Account::Root
        } else {
            Account::User(self.uid)
        }
    }

    pub(super) fn is_root(self) -> bool {
        self.uid == Some(0)
    }

    /// The connections that the caller may see.
    pub(super) fn view(self) -> anyhow::Result<View> {
        let uid = self.uid.context("the kernel does not say who asks")?;
        Ok(View::of(uid))
    }

    /// Fails with `reason` unless the caller is root.
    pub(super) fn require_root(self, reason: &str) -> Result<(), Failure> {
        if self.view()? == View::All {
            return Ok(());
        }
        Err(Failure::new(StatusCode::FORBIDDEN, reason))
    }

    /// The caller's network namespace, which its addresses belong to.
    pub(super) fn netns(self) -> anyhow::Result<Netns> {
        let pid = self.pid.ok_or_else(|| {
            anyhow!("the caller is in another pid namespace: ask by cookie instead of addresses")
        })?;
        let path: PathBuf = format!("/proc/{pid}/ns/net").into();
        Netns::open(&path).context("cannot tell the caller's network namespace")
    }
}
