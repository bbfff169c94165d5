//! An agent that another has followed: it serves what its relays have begun, and touches nothing else.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    sync::mpsc::Receiver,
    time::{self, MissedTickBehavior},
};
use tracing::info;

use super::{
    drain::drain,
    signals::{Signals, Wish},
};
use crate::{
    api::State, connections::summary::Summary, host::service, observe::access_log::AccessLog,
    relay::Relays,
};

/// How often it looks whether connections have ended.
const LOOK: Duration = Duration::from_millis(50);

/// What is left of an agent.
pub(super) struct Retired {
    /// They accept nothing any more.
    pub(super) relays: Relays,
    pub(super) state: Arc<State>,
    /// What the relays have to say to the access log.
    pub(super) refused: Receiver<Summary>,
    pub(super) log: AccessLog,
    pub(super) limit: Duration,
}

impl Retired {
    /// Serves until a signal says to stop, then until the connections in progress have ended. It does not end by itself: what
    /// watches over it would start another agent, which would take over in turn.
    pub(super) async fn serve(mut self, signals: &mut Signals) -> Result<()> {
        let open = self.relays.open();
        let text =
            format!("another agent takes over; {open} connections of relays go on in this process");
        info!("{text}");
        service::tell_status(&text);
        let mut look = time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_told = false;
        loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Stop => break,
                    Wish::Reload => self.log.reopen(),
                    Wish::HandOver => {}
                },
                _ = look.tick() => self.note_ended(),
            }
            if self.relays.open() == 0 && !std::mem::replace(&mut was_told, true) {
                let text = "no connection is left in this process: it waits for SIGTERM";
                info!("{text}");
                service::tell_status(text);
            }
        }
        drain(self.limit, signals, || {
            self.note_ended();
            Ok(self.relays.open())
        })
        .await
    }

    /// Has the access log know of connections that were refused, and of requests that have ended.
    fn note_ended(&mut self) {
        while let Ok(mut ended) = self.refused.try_recv() {
            ended.workload = self.state.containers.of(&ended.closed.origin);
            self.log.write(ended);
        }
    }
}
