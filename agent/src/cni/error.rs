//! Errors in the specification's form.

use std::fmt::{self, Display};

use serde_json::json;

/// Error codes: the specification's, and from 100 on truepeer's own.
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
    /// There is no agent: try again later.
    Later = 11,
    /// There is no agent: no pod can be added.
    Unavailable = 50,
    /// What was put in place for a pod is no longer complete.
    Missing = 100,
}

/// A failure of the plugin.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    code: Code,
    msg: String,
    details: String,
}

impl Error {
    /// An error with a short message, and details.
    pub(super) fn new(code: Code, msg: impl Into<String>, details: impl Display) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: format!("{details:#}"),
        }
    }

    /// The error as JSON, for runtimes.
    pub fn to_json(&self, version: &str) -> String {
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

/// Errors of other rooms are about files or namespaces.
impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Code::Io, error.to_string(), error)
    }
}
