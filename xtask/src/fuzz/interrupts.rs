//! Ctrl-C and `kill` while fuzzers run: they are asked to end, and what they came to is told.

use anyhow::{Context as _, Result};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

/// Keeps SIGINT and SIGTERM from ending this process, until it is dropped. Programs that are started meanwhile get them
/// as ever: the standard library unblocks all signals in a child.
pub(super) struct Interrupts {
    signals: SigSet,
    arrived: SignalFd,
}

impl Interrupts {
    /// Keeps them from this thread and from those that it starts.
    pub(super) fn hold() -> Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        let arrived = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK)
            .and_then(|arrived| signals.thread_block().map(|()| arrived))
            .context("cannot wait for signals")?;
        Ok(Self { signals, arrived })
    }

    /// Whether one came since this was last asked.
    pub(super) fn came(&self) -> Result<bool> {
        let signal = self.arrived.read_signal();
        Ok(signal.context("cannot read which signals came")?.is_some())
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // It was blocked the same way.
        let _ = self.signals.thread_unblock();
    }
}
