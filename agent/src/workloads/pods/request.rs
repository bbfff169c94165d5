//! Requests of the CNI plugin to the agent.

use std::fmt;

use anyhow::Error;
use tokio::sync::oneshot;

use super::attachment::Id;

/// Asks the agent to act on an attachment.
#[derive(Debug)]
pub struct PodRequest {
    /// The attachment.
    pub id: Id,
    /// The action.
    pub action: Action,
    /// Where to send the outcome.
    pub reply: oneshot::Sender<Result<(), PodError>>,
}

/// What the agent can do about an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Puts in place what its file asks for.
    TakeUp,
    /// Removes what was put in place.
    LetGo,
    /// Checks that everything is in place.
    Check,
}

/// Why the agent did not act.
#[derive(Debug)]
pub enum PodError {
    /// The attachment is not known.
    Unknown(Error),
    /// It asks for something impossible: another attempt would fail too.
    Unfit(Error),
    /// What was put in place is no longer complete.
    Amiss(Error),
    /// The agent failed.
    Failed(Error),
}

impl fmt::Display for PodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unknown(error) | Self::Unfit(error) | Self::Amiss(error) | Self::Failed(error)) =
            self;
        write!(f, "{error:#}")
    }
}
