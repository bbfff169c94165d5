//! Answers of the relay's own.

use hyper::StatusCode;

/// What the relay answers itself instead of an upstream: the status, and a text for people that says why.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalReply(pub(super) StatusCode, pub(super) &'static str);
