//! Waits for connections in progress.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time;
use tracing::{info, warn};

use super::signals::{Signals, Wish};
use crate::host::service;

/// How often they are counted.
const COUNT: Duration = Duration::from_millis(50);

/// Whether another agent may follow one that drains.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// The other finds in place what this one leaves.
    AtOnce,
    /// This one has more to do, or has made way already.
    Later,
}

/// Waits until `left` is 0, at most this long or until a signal says to stop. Returns whether it has ended because another agent
/// follows at once.
pub(super) async fn drain(
    limit: Duration,
    signals: &mut Signals,
    follow: Follow,
    mut left: impl FnMut() -> Result<u64>,
) -> Result<bool> {
    let deadline = Instant::now() + limit;
    let mut told = 0;
    loop {
        let left = left()?;
        if left == 0 {
            return Ok(false);
        }
        if Instant::now() >= deadline {
            let seconds = limit.as_secs();
            warn!("{left} connections were still in progress after {seconds} s");
            return Ok(false);
        }
        if left != told {
            info!("waiting for {left} connections; another signal stops at once");
            service::tell_status(&format!("waiting for {left} connections to end"));
            told = left;
        }
        tokio::select! {
            () = time::sleep(COUNT) => {}
            wish = signals.next() => match wish {
                Wish::Stop => return Ok(false),
                Wish::HandOver if follow == Follow::AtOnce => return Ok(true),
                Wish::HandOver | Wish::Reload => {}
            },
        }
    }
}
