//! The access log: a JSON line for each connection that has ended or was refused, and for each HTTP request of a relay.
//!
//! A thread of its own writes it, so that neither a full disk nor a reader that stalls holds up the agent. Metrics count
//! the lines that cannot be written, and the agent warns of the first. Anybody can cause any number of refused
//! connections, so the log has no more of them than a [`Rate`] allows; metrics count the others.

mod line;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use prometheus_client::metrics::counter::Counter;
use tracing::warn;

use self::writer::{Message, Writer};
use crate::{
    config::{AccessLogTarget, Logged},
    connections::{names::Names, summary::Summary},
    observe::rate::Rate,
};

/// How many lines can wait to be written.
const QUEUE: usize = 16_384;
/// How many lines of refused connections may come at once.
const BURST: u32 = 1000;
/// The interval of such lines after a burst: a hundred a second.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long a stopping agent waits for the remaining lines to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// The access log.
pub struct AccessLog {
    /// `None` if the log is off.
    thread: Option<Thread>,
    failures: Counter,
    logged: Logged,
    /// What chooses among clients; nobody knows beforehand whom it leaves out.
    choice: RandomState,
    /// Limits the lines of refused connections.
    rate: Rate,
    omissions: Counter,
}

/// The thread that writes.
struct Thread {
    queue: SyncSender<Message>,
    /// Closed once the thread has written everything.
    done: Receiver<()>,
}

impl Thread {
    fn start(mut writer: Writer) -> Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let (finished, done) = sync_channel(0);
        thread::Builder::new()
            .name("access log".into())
            .spawn(move || {
                writer.run(&messages);
                drop(finished);
            })
            .context("cannot start the access log's thread")?;
        Ok(Self { queue, done })
    }
}

impl AccessLog {
    /// Opens the log of what is to be `logged`. `failures` counts the lines that it cannot write, `omissions` those of refused connections that it
    /// leaves out.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub fn open(
        target: &AccessLogTarget,
        logged: Logged,
        names: Names,
        failures: Counter,
        omissions: Counter,
    ) -> Result<Self> {
        let writer = Writer::open(target, names, failures.clone())?;
        Ok(Self {
            thread: writer.map(Thread::start).transpose()?,
            failures,
            logged,
            choice: RandomState::new(),
            rate: Rate::new(BURST, INTERVAL, Instant::now()),
            omissions,
        })
    }

    /// Has a line written for a connection or request, if it is to have one. Never waits.
    pub fn write(&mut self, summary: Summary) {
        if summary.refused.is_none() && !self.is_logged(&summary) {
            return;
        }
        let Some(thread) = &self.thread else { return };
        if summary.refused.is_some() && !self.rate.allows(Instant::now()) {
            self.omissions.inc();
        } else if thread
            .queue
            .try_send(Message::Write(summary.into()))
            .is_err()
        {
            self.failures.inc();
        }
    }

    /// Whether one that was not refused is. All lines of a connection are or none, which the proxy's and the application's ends
    /// have, and requests.
    fn is_logged(&self, summary: &Summary) -> bool {
        match self.logged {
            Logged::All => true,
            Logged::Refused => false,
            Logged::OneIn(number) => {
                let client = self.choice.hash_one(summary.closed.origin.client);
                client.is_multiple_of(number.into())
            }
        }
    }

    /// Has the file opened again, after it was renamed (logrotate).
    pub fn reopen(&self) {
        if let Some(thread) = &self.thread
            && thread.queue.try_send(Message::Reopen).is_err()
        {
            warn!("the access log is too far behind to be opened again");
        }
    }
}

impl Drop for AccessLog {
    /// Waits for the lines in the queue, but not for a reader that stalls.
    fn drop(&mut self) {
        if let Some(Thread { queue, done }) = self.thread.take() {
            drop(queue);
            if done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                warn!("the access log's reader stands still: its last lines are lost");
            }
        }
    }
}
