//! What the CNI plugin asks of the agent.

use std::fmt;

use anyhow::Error;
use tokio::sync::oneshot;

use super::Id;

/// Something to be done about an attachment.
#[derive(Debug)]
pub struct Request {
    /// The attachment.
    pub id: Id,
    /// What is to be done.
    pub action: Action,
    /// Takes the outcome.
    pub reply: oneshot::Sender<Result<(), Refusal>>,
}

/// What can be done about an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put in place what its file asks for.
    TakeUp,
    /// Take that away again.
    LetGo,
    /// See whether it is in place.
    Check,
}

/// Why something was not done.
#[derive(Debug)]
pub enum Refusal {
    /// The attachment is not known.
    Unknown(Error),
    /// It asks for what cannot be, however often.
    Unfit(Error),
    /// It was put in place, and no longer is.
    Amiss(Error),
    /// The agent failed.
    Failed(Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unknown(error) | Self::Unfit(error) | Self::Amiss(error) | Self::Failed(error)) =
            self;
        write!(f, "{error:#}")
    }
}
