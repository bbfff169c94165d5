//! An agent that another has followed: it serves what its relays have begun, and touches nothing else, unless the other fails.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{
    sync::mpsc::Receiver,
    time::{self, MissedTickBehavior},
};
use tracing::{error, info};

use super::{
    beginning::{Beginning, Return},
    drain::drain,
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

/// What is left of an agent.
pub(super) struct Retired {
    pub(super) begun: Begun,
    /// `None`: the successor is in place.
    pub(super) back: Option<Return>,
    pub(super) limit: Duration,
}

/// What its relays have begun.
pub(super) struct Begun {
    /// They accept nothing any more.
    pub(super) relays: Relays,
    pub(super) state: Arc<State>,
    /// What the relays have to say to the access log.
    pub(super) refused: Receiver<Summary>,
    pub(super) log: AccessLog,
}

impl Retired {
    /// Serves until a signal says to stop, then until the connections in progress have ended. It does not end by itself: what
    /// watches over it would start another agent, which would take over in turn. If the successor ends before it was in place,
    /// an agent is to start once more, as returned.
    pub(super) async fn serve(mut self, signals: &mut Signals) -> Result<Option<Beginning>> {
        let open = self.begun.relays.open();
        let text =
            format!("another agent takes over; {open} connections of relays go on in this process");
        info!("{text}");
        service::tell_status(&text);
        let mut look = time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_told = false;
        let since = Instant::now();
        let mut was_followed = false;
        loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Stop => break,
                    Wish::Reload => self.begun.log.reopen(),
                    Wish::HandOver => self.back = None,
                },
                _ = look.tick() => self.begun.note_ended(),
            }
            if let Some(back) = self.back.take() {
                let directory = &back.config.agent.bpffs;
                was_followed |= matches!(Lock::holder(directory), Ok(Some(_)));
                let may_return = was_followed || since.elapsed() >= PATIENCE;
                // What fails here may be a part of the other's end, and must not end this one's connections.
                let lock = || Lock::try_take(directory).ok().flatten();
                match may_return.then(lock).flatten() {
                    Some(lock) => return Ok(Some(self.begun.beside(back, lock))),
                    None => self.back = Some(back),
                }
            } else if self.begun.relays.open() == 0 && !std::mem::replace(&mut was_told, true) {
                let text = "no connection is left in this process: it waits for SIGTERM";
                info!("{text}");
                service::tell_status(text);
            }
        }
        drop(self.back);
        let begun = &mut self.begun;
        drain(self.limit, signals, || {
            begun.note_ended();
            Ok(begun.relays.open())
        })
        .await?;
        Ok(None)
    }
}

impl Begun {
    /// Goes on beside an agent of the same process. Returns with what that one is to start.
    fn beside(mut self, back: Return, lock: Lock) -> Beginning {
        error!("the agent that took over has ended before it was in place: this one goes on");
        let mut former = back.former;
        former.push(self.state.clone());
        tokio::spawn(async move {
            while self.relays.open() != 0 {
                time::sleep(LOOK).await;
                self.note_ended();
            }
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
