//! The access log's thread.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, TryRecvError},
};

use anyhow::{Context as _, Result};
use prometheus_client::metrics::counter::Counter;
use tracing::warn;

use super::line::Lines;
use crate::{
    config::AccessLogTarget,
    connections::{names::Names, summary::Summary},
};

/// What the writer is to do.
pub(super) enum Message {
    /// Write the line of a summary.
    Write(Box<Summary>),
    /// Open the file again.
    Reopen,
}

/// Writes the log, on a thread of its own.
pub(super) struct Writer {
    out: BufWriter<File>,
    path: Option<PathBuf>,
    lines: Lines,
    failures: Counter,
    has_warned: bool,
}

impl Writer {
    /// Opens the destination; `None` if the log is off. `failures` counts the lines that cannot be written.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub(super) fn open(
        target: &AccessLogTarget,
        names: Names,
        failures: Counter,
    ) -> Result<Option<Self>> {
        let (file, path) = match target {
            AccessLogTarget::Off => return Ok(None),
            // Without the buffer of the standard library, which is flushed at each line.
            AccessLogTarget::Stdout => (io::stdout().as_fd().try_clone_to_owned()?.into(), None),
            AccessLogTarget::File(path) => (open(path)?, Some(path.clone())),
        };
        Ok(Some(Self {
            out: BufWriter::with_capacity(64 << 10, file),
            path,
            lines: Lines::new(names),
            failures,
            has_warned: false,
        }))
    }

    /// Handles messages until their sender is gone, and flushes whenever there is none.
    pub(super) fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let message = match messages.try_recv() {
                Err(TryRecvError::Empty) => {
                    let flushed = self.out.flush();
                    self.check(flushed);
                    messages.recv().ok()
                }
                message => message.ok(),
            };
            match message {
                Some(Message::Write(summary)) => self.write(&summary),
                Some(Message::Reopen) => self.reopen(),
                None => break,
            }
        }
        let flushed = self.out.flush();
        self.check(flushed);
    }

    fn write(&mut self, summary: &Summary) {
        let line = self.lines.line(summary);
        let written = line.and_then(|line| self.out.write_all(&line).map_err(Into::into));
        if written.is_err() {
            self.failures.inc();
        }
        self.check(written);
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        let flushed = self.out.flush();
        match open(path) {
            Ok(file) => {
                self.out = BufWriter::with_capacity(self.out.capacity(), file);
                self.has_warned = false;
            }
            Err(error) => warn!("{error:#}; the former file stays in use"),
        }
        self.check(flushed);
    }

    /// Warns of the first failure.
    fn check<E: std::fmt::Display>(&mut self, outcome: Result<(), E>) {
        if let Err(error) = outcome
            && !std::mem::replace(&mut self.has_warned, true)
        {
            warn!("the access log cannot be written: {error}; the agent goes on without");
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        // The log says who connected to what: others may not read it.
        .mode(0o640)
        .open(path)
        .with_context(|| {
            format!(
                "cannot open the access log {}: create its directory, or correct `access_log`",
                path.display()
            )
        })
}
