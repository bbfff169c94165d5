//! `/v1/status`: the agent and its data path.

use std::sync::Arc;

use axum::{
    Json,
    extract::{ConnectInfo, State as Shared},
    response::IntoResponse as _,
};
use serde::{Deserialize, Serialize};

use super::{answer::Answer, caller::Caller, state::State};
use crate::{
    connections::{names::Names, origins::Status},
    observe::upkeep::PutBack,
};

/// The answer to `/v1/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The agent; `None` in a report from the pins of an agent that is gone.
    pub agent: Option<AgentReport>,
    /// The data path.
    #[serde(flatten)]
    pub datapath: Status,
    /// The policies, sorted by name.
    pub policies: Vec<PolicyTally>,
}

/// The decisions of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyTally {
    /// Its name.
    pub policy: String,
    /// How many connections it let in.
    pub allowed: u64,
    /// How many connections it refused.
    pub denied: u64,
}

impl Report {
    /// A report on the data path, with the names of the configuration.
    pub fn new(agent: Option<AgentReport>, datapath: Status, names: &Names) -> Self {
        let tallies = datapath.tallies.iter();
        let mut policies: Vec<_> = tallies
            .filter_map(|(rule, [allowed, denied])| {
                Some(PolicyTally {
                    policy: names.policy(*rule)?,
                    allowed: *allowed,
                    denied: *denied,
                })
            })
            .collect();
        policies.sort();
        Self {
            agent,
            datapath,
            policies,
        }
    }
}

/// A running agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentReport {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Whether it is neither starting nor draining.
    pub ready: bool,
    /// When it started (RFC 3339).
    pub started: String,
    /// What the configuration names and the host does not have yet.
    pub waiting: Vec<String>,
    /// What somebody had taken away and the agent put back, the latest first.
    pub put_back: Vec<PutBack>,
}

/// Answers `/v1/status`.
pub(super) async fn status(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Answer {
    let datapath = state.status(caller).await?;
    let agent = AgentReport {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        ready: state.is_ready(),
        started: humantime::format_rfc3339_seconds(state.started).to_string(),
        waiting: state.metrics.upkeep.waiting(),
        put_back: state.metrics.upkeep.put_back(),
    };
    let report = Report::new(Some(agent), Status::clone(&datapath), &state.names);
    Ok(Json(report).into_response())
}
