//! Why a relay refuses a connection or a request.

use agent_common::{proxy::Reason, unwrap::Refusal};

/// Why a relay refuses a connection or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalReason {
    /// The connection does not begin with a valid PROXY header.
    Header(Reason),
    /// No rule trusts the sender.
    Untrusted,
    /// A policy denies the client.
    Denied,
    /// The PROXY header, or the first bytes of HTTP, did not arrive in time.
    Timeout,
    /// The connection ended before its PROXY header did.
    Closed,
    /// As many connections are open as the configuration or the limit of open files allows.
    Limit,
    /// No upstream could be reached.
    Upstream,
    /// The upstream could not be told the client: an IPv4 socket cannot express an IPv6 address.
    Inexpressible,
}

impl RefusalReason {
    /// Every reason.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::Untrusted,
            Self::Denied,
            Self::Timeout,
            Self::Closed,
            Self::Limit,
            Self::Upstream,
            Self::Inexpressible,
        ];
        Reason::ALL.into_iter().map(Self::Header).chain(others)
    }

    /// The word for it in metrics and logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Header(reason) => reason.name(),
            Self::Untrusted => "untrusted",
            Self::Denied => "denied",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Limit => "limit",
            Self::Upstream => "upstream",
            Self::Inexpressible => Refusal::Inexpressible.name(),
        }
    }
}
