//! SIGTERM and SIGINT stop the agent, SIGHUP has it read its configuration again, SIGUSR2 hand over to another.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
pub(super) enum Wish {
    Stop,
    Reload,
    HandOver,
}

/// The signals that the agent obeys.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    hand_over: Signal,
}

impl Signals {
    /// Listens from now on. To be called within the async runtime.
    pub(super) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            reload: listen(SignalKind::hangup())?,
            hand_over: listen(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.reload.recv() => Wish::Reload,
            _ = self.hand_over.recv() => Wish::HandOver,
        }
    }
}
