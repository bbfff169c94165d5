//! An agent that another has followed: it serves what its relays have begun, and touches nothing else, unless the other fails.

use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::{
    sync::mpsc::Receiver,
    time::{self, MissedTickBehavior},
};
use tracing::{error, info};

use super::{
    beginning::{Beginning, Return},
    drain::{Follow, drain},
    lock::Lock,
    signals::{Signals, Wish},
};
use crate::{
    api::State, connections::summary::Summary, host::service, observe::access_log::AccessLog,
    relay::Relays,
};

/// How often it looks whether connections have ended.
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take until a successor has the lock.
const PATIENCE: Duration = Duration::from_secs(1);
/// After so long a successor that lives is taken to be in place: one of another version may not say so.
const SETTLED: Duration = Duration::from_secs(60);

/// What is left of an agent.
pub(super) struct Retired {
    pub(super) begun: Begun,
    /// `None`: the successor is in place.
    pub(super) back: Option<Return>,
    pub(super) limit: Duration,
    /// A signal has said to stop already.
    pub(super) stops: bool,
}

/// What its relays have begun.
pub(super) struct Begun {
    /// They accept nothing any more.
    pub(super) relays: Relays,
    pub(super) state: Arc<State>,
    /// What the relays have to say to the access log.
    pub(super) refused: Receiver<Summary>,
    pub(super) log: AccessLog,
    /// What agents of this process had begun before.
    pub(super) former: Vec<Arc<State>>,
}

/// The agent that was to follow.
struct Successor {
    since: Instant,
    /// The process that was first seen to have the lock.
    process: Option<(i32, OwnedFd)>,
}

/// What has become of it.
enum Outlook {
    Starts,
    /// It is in place, or somebody else is.
    Serves,
    /// It has ended, and nobody serves.
    Failed(Lock),
}

impl Successor {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            process: None,
        }
    }

    /// Looks at who has the lock of `directory`. What fails here may be a part of the other's end, and must not end this
    /// process.
    fn look(&mut self, directory: &Path) -> Outlook {
        let holder = Lock::holder(directory).ok().flatten();
        let may_have_failed = match (holder, &self.process) {
            (Some(pid), None) => {
                let process = Pid::from_raw(pid).map(|id| pidfd_open(id, PidfdFlags::empty()));
                self.process = process.and_then(Result::ok).map(|process| (pid, process));
                false
            }
            (Some(pid), Some((known, _))) if pid != *known => return Outlook::Serves,
            (Some(_), Some(_)) if self.since.elapsed() >= SETTLED => return Outlook::Serves,
            (Some(_), Some(_)) => false,
            (None, None) => self.since.elapsed() >= PATIENCE,
            (None, Some((_, process))) => has_ended(process),
        };
        let lock = || Lock::try_take(directory).ok().flatten();
        match may_have_failed.then(lock).flatten() {
            Some(lock) => Outlook::Failed(lock),
            None => Outlook::Starts,
        }
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready != 0)
}

impl Retired {
    /// Serves until a signal says to stop, then until the connections in progress have ended. It does not end by itself: what
    /// watches over it would start another agent, which would take over in turn. If the successor ends before it was in place,
    /// an agent is to start once more, as returned.
    pub(super) async fn serve(mut self, signals: &mut Signals) -> Result<Option<Beginning>> {
        let open = self.begun.open();
        let text =
            format!("another agent takes over; {open} connections of relays go on in this process");
        info!("{text}");
        service::tell_status(&text);
        let mut look = time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_told = false;
        let mut successor = Successor::new();
        while !self.stops {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Stop => break,
                    Wish::Reload => self.begun.log.reopen(),
                    Wish::HandOver => self.back = None,
                },
                _ = look.tick() => self.begun.note_ended(),
            }
            if let Some(back) = self.back.take() {
                match successor.look(&back.config.agent.bpffs) {
                    Outlook::Starts => self.back = Some(back),
                    Outlook::Serves => {}
                    Outlook::Failed(lock) => return Ok(Some(self.begun.beside(back, lock))),
                }
            } else if self.begun.open() == 0 && !std::mem::replace(&mut was_told, true) {
                let text = "no connection is left in this process: it waits for SIGTERM";
                info!("{text}");
                service::tell_status(text);
            }
        }
        drop(self.back);
        let begun = &mut self.begun;
        drain(self.limit, signals, Follow::Later, || {
            begun.note_ended();
            Ok(begun.open())
        })
        .await?;
        Ok(None)
    }
}

impl Begun {
    /// How many connections are open.
    fn open(&self) -> u64 {
        self.relays.open() + open(&self.former)
    }

    /// Goes on beside an agent of the same process. Returns with what that one is to start.
    fn beside(mut self, back: Return, lock: Lock) -> Beginning {
        error!("the agent that took over has ended before it was in place: this one goes on");
        let mut former = std::mem::take(&mut self.former);
        former.push(self.state.clone());
        tokio::spawn(async move {
            while self.relays.open() != 0 {
                time::sleep(LOOK).await;
                self.note_ended();
            }
            self.note_ended();
        });
        Beginning {
            config: back.config,
            load: back.load,
            lock,
            inherited: back.sockets,
            former,
        }
    }

    /// Has the access log know of connections that were refused, and of requests that have ended.
    fn note_ended(&mut self) {
        while let Ok(mut ended) = self.refused.try_recv() {
            ended.workload = self.state.containers.of(&ended.closed.origin);
            self.log.write(ended);
        }
    }
}

/// How many connections are open of what former agents of this process have begun.
pub(super) fn open(former: &[Arc<State>]) -> u64 {
    former.iter().map(|state| state.metrics.relay.open()).sum()
}

/// Has what former agents of this process have begun go on until a signal says to stop, and then end. For when no agent can.
pub(super) async fn linger(
    former: &[Arc<State>],
    limit: Duration,
    signals: &mut Signals,
) -> Result<()> {
    if open(former) != 0 {
        while !matches!(signals.next().await, Wish::Stop) {}
    }
    drain(limit, signals, Follow::Later, || Ok(open(former))).await?;
    Ok(())
}
