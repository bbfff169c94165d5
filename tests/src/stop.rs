//! Ctrl-C: what is in progress ends with an error, and everything is taken down in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static WANTED: AtomicBool = AtomicBool::new(false);

extern "C" fn want(_: c_int) {
    WANTED.store(true, Ordering::Relaxed);
}

/// Whether the user wants to stop.
#[derive(Clone, Copy)]
pub struct Stop(());

impl Stop {
    /// Listens to SIGINT and SIGTERM, whichever thread gets them. The second one ends the process at once.
    pub fn on_signals() -> Result<Self> {
        let flags = SaFlags::SA_RESTART | SaFlags::SA_RESETHAND;
        let action = SigAction::new(SigHandler::Handler(want), flags, SigSet::empty());
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            // SAFETY: the handler stores to an atomic variable, and does nothing else.
            unsafe { sigaction(signal, &action)? };
        }
        Ok(Self(()))
    }

    /// Fails if the user wants to stop.
    pub fn check(&self) -> Result<()> {
        ensure!(!WANTED.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Sleeps; fails as soon as the user wants to stop.
    pub fn sleep(&self, time: Duration) -> Result<()> {
        const STEP: Duration = Duration::from_millis(50);
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(STEP));
        }
    }
}
