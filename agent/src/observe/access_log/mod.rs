//! The access log: a JSON line for each connection that has ended or was refused, and for each HTTP
//! request of a relay.
//!
//! A thread of its own writes it, so that a full disk or a reader that stands still never holds up
//! the agent. What cannot be written is counted, and the first failure is told. Of refused connections, which
//! anybody can make many of, no more are written than a [`Rate`] allows; the rest is counted.

mod line;
mod rate;

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use prometheus_client::metrics::counter::Counter;
use tracing::warn;

use self::{line::Lines, rate::Rate};
use crate::{
    config::AccessLogTarget,
    connections::{ended::Ended, peers::Names},
};

/// How many connections can wait to be written.
const QUEUE: usize = 16_384;
/// How long a stopping agent waits for the rest to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// The access log's end that takes connections.
pub struct AccessLog {
    writer: Option<Writer>,
    failures: Counter,
    /// Of refused connections.
    rate: Rate,
    omissions: Counter,
}

struct Writer {
    queue: SyncSender<Message>,
    /// Closed once the thread has written everything.
    done: Receiver<()>,
}

enum Message {
    Ended(Box<Ended>),
    Reopen,
}

impl AccessLog {
    /// Opens the log. `failures` counts connections that it could not write down, `omissions` refused ones
    /// that it did not.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub fn open(
        target: &AccessLogTarget,
        names: Names,
        failures: Counter,
        omissions: Counter,
    ) -> Result<Self> {
        let rate = Rate::new(Instant::now());
        let (file, path) = match target {
            AccessLogTarget::Off => {
                return Ok(Self {
                    writer: None,
                    failures,
                    rate,
                    omissions,
                });
            }
            // Past the standard library's buffer, which would flush at each line.
            AccessLogTarget::Stdout => (io::stdout().as_fd().try_clone_to_owned()?.into(), None),
            AccessLogTarget::File(path) => (open(path)?, Some(path.clone())),
        };
        let (queue, messages) = sync_channel(QUEUE);
        let (finished, done) = sync_channel(0);
        let mut log = Log {
            out: BufWriter::with_capacity(64 << 10, file),
            path,
            lines: Lines::new(names),
            failures: failures.clone(),
            warned: false,
        };
        thread::Builder::new()
            .name("access log".into())
            .spawn(move || {
                log.run(&messages);
                drop(finished);
            })
            .context("cannot start the access log's thread")?;
        Ok(Self {
            writer: Some(Writer { queue, done }),
            failures,
            rate,
            omissions,
        })
    }

    /// Writes a line for this connection, soon. Never waits.
    pub fn write(&mut self, ended: Ended) {
        let Some(writer) = &self.writer else { return };
        if ended.refused.is_some() && !self.rate.allows(Instant::now()) {
            self.omissions.inc();
        } else if writer.queue.try_send(Message::Ended(ended.into())).is_err() {
            self.failures.inc();
        }
    }

    /// Opens the file again, after something has renamed it (logrotate).
    pub fn reopen(&self) {
        if let Some(writer) = &self.writer
            && writer.queue.try_send(Message::Reopen).is_err()
        {
            warn!("the access log is too far behind to be opened again");
        }
    }
}

impl Drop for AccessLog {
    /// Waits for what is queued, but not for a reader that stands still.
    fn drop(&mut self) {
        if let Some(Writer { queue, done }) = self.writer.take() {
            drop(queue);
            if done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                warn!("the access log's reader stands still: its last lines are lost");
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        // It says who connected to what.
        .mode(0o640)
        .open(path)
        .with_context(|| {
            format!(
                "cannot open the access log {}: create its directory, or correct `access_log`",
                path.display()
            )
        })
}

/// The thread's side.
struct Log {
    out: BufWriter<File>,
    path: Option<PathBuf>,
    lines: Lines,
    failures: Counter,
    warned: bool,
}

impl Log {
    fn run(&mut self, messages: &Receiver<Message>) {
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
                Some(Message::Ended(ended)) => self.write(&ended),
                Some(Message::Reopen) => self.reopen(),
                None => break,
            }
        }
        let flushed = self.out.flush();
        self.check(flushed);
    }

    fn write(&mut self, ended: &Ended) {
        let line = self.lines.line(ended);
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
                self.warned = false;
            }
            Err(error) => warn!("{error:#}; the former file stays in use"),
        }
        self.check(flushed);
    }

    /// Tells the first failure.
    fn check<E: std::fmt::Display>(&mut self, outcome: Result<(), E>) {
        if let Err(error) = outcome
            && !std::mem::replace(&mut self.warned, true)
        {
            warn!("the access log cannot be written: {error}; the agent goes on without");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_common::{Closed, Process, unwrap::Refusal};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        connections::{
            details::Details,
            peers::tests::{names, origin},
        },
        host::netns::Netns,
    };

    fn closed() -> Closed {
        let mut origin = origin("203.0.113.7:51812");
        origin.netns = Netns::current().unwrap().cookie();
        origin.process = Process {
            pid: 771,
            uid: 33,
            cgroup: u64::MAX,
            comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
        };
        Closed {
            origin,
            cookie: 4242,
            closed: origin.since + 1_500_000_000,
            received: 10,
            sent: 20,
            ..Closed::default()
        }
    }

    fn ended() -> Ended {
        Ended::new(closed(), None)
    }

    fn log(path: &Path) -> (AccessLog, Counter) {
        let failures = Counter::default();
        let target = AccessLogTarget::File(path.into());
        let log = AccessLog::open(&target, names(), failures.clone(), Counter::default()).unwrap();
        (log, failures)
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn wait_for_lines(path: &Path, n: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !path.exists() || lines(path).len() != n {
            assert!(Instant::now() < deadline, "{:?}", lines(path));
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_line_tells_all_of_a_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut log, _) = log(&path);
        log.write(ended());
        // While the log is open: nothing stays in the buffer when the queue is empty.
        wait_for_lines(&path, 1);
        let line = &lines(&path)[0];
        assert_eq!(line["client"], "203.0.113.7:51812");
        assert_eq!(line["original_dst"], "10.0.0.3:8080");
        assert_eq!(line["trusted_by"], "steer inbound");
        assert_eq!(line["comm"], "nginx");
        assert_eq!((&line["pid"], &line["uid"]), (&771.into(), &33.into()));
        assert_eq!(line["netns"], Netns::current().unwrap().inode());
        assert!(line["cgroup"].is_null());
        assert_eq!(line["bytes_received"], 10);
        assert_eq!(line["bytes_sent"], 20);
        assert_eq!(line["duration_seconds"], 1.5);
        let time = line["time"].as_str().unwrap();
        assert_eq!((time.len(), &time[23..]), (24, "Z"), "{time}");
    }

    #[test]
    fn a_socket_that_no_process_held_has_nulls() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut log, _) = log(&path);
        let mut closed = closed();
        closed.origin.process = Process::default();
        log.write(Ended::new(closed, None));
        drop(log);
        let line = &lines(&path)[0];
        for key in ["pid", "comm", "uid", "cgroup"] {
            assert!(line[key].is_null(), "{key}: {line}");
        }
    }

    #[test]
    fn what_a_header_says_besides_addresses_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut log, _) = log(&path);
        let details = Details {
            authority: Some("shop.example".into()),
            ..Details::default()
        };
        log.write(Ended::new(closed(), Some(Arc::new(details))));
        log.write(ended());
        drop(log);
        let lines = lines(&path);
        assert_eq!(lines[0]["proxy"], json!({"authority": "shop.example"}));
        assert_eq!(lines[1].get("proxy"), None);
    }

    #[test]
    fn a_refused_connection_says_why_and_names_a_client_only_if_it_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut log, _) = log(&path);
        let mut unknown = closed();
        unknown.origin.evidence = 0;
        unknown.refused = Refusal::NoHeader as u32;
        log.write(Ended::new(unknown, None));
        log.write(Ended {
            refused: Some("upstream"),
            ..ended()
        });
        drop(log);
        let lines = lines(&path);
        assert_eq!(lines[0]["refused"], "no_header");
        assert_eq!(lines[0]["remote"], "203.0.113.7:51812");
        for key in [
            "client",
            "original_dst",
            "evidence",
            "trusted_by",
            "bytes_sent",
        ] {
            assert_eq!(lines[0].get(key), None, "{}", lines[0]);
        }
        assert_eq!(lines[1]["refused"], "upstream");
        assert_eq!(lines[1]["client"], "203.0.113.7:51812");
        assert_eq!(lines[1]["trusted_by"], "steer inbound");
    }

    #[test]
    fn a_flood_of_refused_ones_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut log, failures) = log(&path);
        for n in 0..6000 {
            log.write(Ended {
                refused: (n % 3 != 0).then_some("denied"),
                ..ended()
            });
        }
        let omissions = log.omissions.clone();
        drop(log);
        let lines = lines(&path);
        let refused = lines.iter().filter(|l| l.get("refused").is_some()).count();
        assert_eq!(lines.len() - refused, 2000);
        assert_eq!(refused as u64 + omissions.get(), 4000);
        assert!((1000..2000).contains(&refused), "{refused}");
        assert_eq!(failures.get(), 0);
    }

    #[test]
    fn a_renamed_file_is_left_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let (mut log, failures) = log(&path);
        log.write(ended());
        wait_for_lines(&path, 1);
        std::fs::rename(&path, &old).unwrap();
        log.write(ended());
        log.reopen();
        log.write(ended());
        drop(log);
        assert_eq!((lines(&old).len(), lines(&path).len()), (2, 1));
        assert_eq!(failures.get(), 0);
    }

    #[test]
    fn a_full_disk_is_counted() {
        let (mut log, failures) = log(Path::new("/dev/full"));
        for _ in 0..1000 {
            log.write(ended());
        }
        drop(log);
        assert!(failures.get() > 0);
    }

    #[test]
    fn off_writes_nothing() {
        let mut log = AccessLog::open(
            &AccessLogTarget::Off,
            names(),
            Counter::default(),
            Counter::default(),
        )
        .unwrap();
        log.write(ended());
        log.reopen();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let target = AccessLogTarget::File("/nonexistent/log".into());
        let error = AccessLog::open(&target, names(), Counter::default(), Counter::default()).err();
        let text = format!("{:#}", error.unwrap());
        assert!(text.contains("correct `access_log`"), "{text}");
    }
}
