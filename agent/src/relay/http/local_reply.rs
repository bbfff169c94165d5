//! Answers of the relay's own.

use hyper::StatusCode;

use crate::relay::reason::RefusalReason;

/// What the relay answers itself instead of an upstream: the status, and a text for people that says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalReply(pub StatusCode, pub &'static str);

impl LocalReply {
    /// A policy denies the client.
    pub(super) const DENIED: Self = Self(StatusCode::FORBIDDEN, "a policy denies the client");
    /// The upstream cannot be told the client.
    pub(super) const INEXPRESSIBLE: Self = Self(
        StatusCode::SERVICE_UNAVAILABLE,
        "the upstream cannot express the client's address",
    );
    /// No upstream answers.
    pub(super) const UNAVAILABLE: Self = Self(
        StatusCode::SERVICE_UNAVAILABLE,
        "no upstream can be reached",
    );

    /// Why the client is refused, if that is about the client.
    pub(super) fn refusal(self) -> Option<RefusalReason> {
        match self {
            Self::DENIED => Some(RefusalReason::Denied),
            Self::INEXPRESSIBLE => Some(RefusalReason::Inexpressible),
            _ => None,
        }
    }
}
