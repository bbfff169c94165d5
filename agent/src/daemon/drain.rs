//! Waits for connections in progress.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time;
use tracing::{info, warn};

use super::signals::{Signals, Wish};
use crate::host::service;

/// How often they are counted.
const COUNT: Duration = Duration::from_millis(50);

/// Waits until `left` is 0, at most this long or until a signal says to stop.
pub(super) async fn drain(
    limit: Duration,
    signals: &mut Signals,
    mut left: impl FnMut() -> Result<u64>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut told = 0;
    loop {
        let left = left()?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let seconds = limit.as_secs();
            warn!("{left} connections were still in progress after {seconds} s");
            return Ok(());
        }
        if left != told {
            info!("waiting for {left} connections; another signal stops at once");
            service::tell_status(&format!("waiting for {left} connections to end"));
            told = left;
        }
        tokio::select! {
            () = time::sleep(COUNT) => {}
            Wish::Stop = signals.next() => return Ok(()),
        }
    }
}
