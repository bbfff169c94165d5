//! Connections and requests that have ended or were refused, on their way to the statistics and the access log.

use std::sync::Arc;

use agent_common::{Closed, unwrap::Refusal};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{connections::details::Details, workloads::Workload};

/// How many refused connections and ended requests of the relays can wait for the agent.
const QUEUE: usize = 4096;

/// A connection with an origin that has ended, or one that was refused.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The data path's record. For a connection that was refused while nobody knew its client, the
    /// evidence is 0, and the client is who sent it.
    pub closed: Closed,
    /// Why it was refused.
    pub refused: Option<&'static str>,
    /// What its PROXY header said besides addresses.
    pub details: Option<Arc<Details>>,
    /// Whose it was; the agent finds that out.
    pub workload: Option<Arc<Workload>>,
    /// Of an HTTP request, whose record is `closed` then.
    pub request: Option<Request>,
}

/// What is told of an HTTP request besides its client.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The target's path, without query.
    pub path: String,
    /// The answer's status; none: there was no answer.
    pub status: Option<u16>,
}

impl Ended {
    /// What the data path told.
    pub fn new(closed: Closed, details: Option<Arc<Details>>) -> Self {
        Self {
            closed,
            refused: Refusal::from_u32(closed.refused).map(Refusal::name),
            details,
            workload: None,
            request: None,
        }
    }
}

/// Where the relays tell whom they refuse, and what requests they served.
#[derive(Clone)]
pub struct Refusals {
    queue: Sender<Ended>,
    lost: Counter,
}

impl Refusals {
    /// Both ends. `lost` counts what found no room.
    pub fn channel(lost: Counter) -> (Self, Receiver<Ended>) {
        let (queue, receiver) = channel(QUEUE);
        (Self { queue, lost }, receiver)
    }

    /// Tells of one. Never waits.
    pub fn tell(&self, ended: Ended) {
        if self.queue.try_send(ended).is_err() {
            self.lost.inc();
        }
    }
}
