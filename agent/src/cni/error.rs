//! Errors as the specification has them.

use std::fmt::{self, Display};

use serde_json::json;

/// The specification's numbers, and from 100 on truepeer's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    /// Incompatible CNI version.
    Version = 1,
    /// Unsupported field in the network configuration.
    Field = 2,
    /// The container is unknown.
    Container = 3,
    /// An environment variable is missing or invalid.
    Environment = 4,
    /// Input or output failed.
    Io = 5,
    /// The input could not be decoded.
    Decode = 6,
    /// The network configuration, or a pod's annotation, is invalid.
    Network = 7,
    /// Try again later: there is no agent.
    Later = 11,
    /// No pod can be added: there is no agent.
    Unavailable = 50,
    /// What was put in place for a pod is no longer there.
    Missing = 100,
}

/// A failure of the plugin.
#[derive(Debug)]
pub(super) struct Error {
    code: Code,
    msg: String,
    details: String,
}

impl Error {
    /// What happened, in short, and more about it.
    pub(super) fn new(code: Code, msg: impl Into<String>, details: impl Display) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: format!("{details:#}"),
        }
    }

    /// The error as runtimes read it.
    pub(super) fn to_json(&self, version: &str) -> String {
        json!({
            "cniVersion": version,
            "code": self.code as u32,
            "msg": self.msg,
            "details": self.details,
        })
        .to_string()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.msg, self.details)
    }
}

/// What failed is reading or writing files, or entering a namespace.
impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Code::Io, error.to_string(), error)
    }
}
