//! Summaries of connections and requests that have ended or were refused, for the statistics and the access log.

use std::sync::Arc;

use agent_common::{Closed, unwrap::Refusal};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::proxy_tlvs::ProxyTlvs;
use crate::workloads::Workload;

/// How many summaries of the relays can wait for the agent.
const QUEUE: usize = 4096;

/// The summary of a connection with an origin that has ended, or of one that was refused.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The data path's record. Where a connection was refused before its client was known, the evidence is 0, and the
    /// client is the sender.
    pub closed: Closed,
    /// Why it was refused.
    pub refused: Option<&'static str>,
    /// The TLVs of its PROXY header.
    pub tlvs: Option<Arc<ProxyTlvs>>,
    /// The workload that it belonged to, which the agent adds.
    pub workload: Option<Arc<Workload>>,
    /// The HTTP request, if this is the summary of one: then `closed` is about the request.
    pub request: Option<HttpRequest>,
}

/// An HTTP request, apart from its client.
#[derive(Clone, Debug, Serialize)]
pub struct HttpRequest {
    /// The method.
    pub method: String,
    /// The target's path, without query.
    pub path: String,
    /// Status of the response; `None` if there was none.
    pub status: Option<u16>,
}

impl Summary {
    /// The summary of a record of the data path.
    pub fn new(closed: Closed, tlvs: Option<Arc<ProxyTlvs>>) -> Self {
        Self {
            closed,
            refused: Refusal::from_u32(closed.refused).map(Refusal::name),
            tlvs,
            workload: None,
            request: None,
        }
    }
}

/// The relays' end of a queue. They send summaries of the connections that they refuse and of the requests that they
/// serve.
#[derive(Clone)]
pub struct SummarySender {
    queue: Sender<Summary>,
    lost: Counter,
}

impl SummarySender {
    /// Creates a queue and returns both ends. `lost` counts the summaries that find no room in it.
    pub fn channel(lost: Counter) -> (Self, Receiver<Summary>) {
        let (queue, receiver) = channel(QUEUE);
        (Self { queue, lost }, receiver)
    }

    /// Sends a summary. Never waits.
    pub fn tell(&self, summary: Summary) {
        if self.queue.try_send(summary).is_err() {
            self.lost.inc();
        }
    }
}
