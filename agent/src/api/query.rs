//! Queries of `/v1/peer`, `/v1/pod` and `/v1/top`.

use std::{fmt, net::SocketAddr};

use axum::{
    extract::Query,
    http::{StatusCode, Uri},
};

use serde::Deserialize;

use super::answer::Failure;
use crate::{observe::statistics::By, workloads::pods::Id};

/// The connection that a query names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The one whose socket has this cookie.
    Cookie(u64),
    /// The one between these ends, in the caller's network namespace.
    Ends {
        /// The socket's own end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(cookie) => write!(f, "cookie {cookie}"),
            Self::Ends { local, remote } => write!(
                f,
                "local {local}, remote {remote} in the caller's network namespace"
            ),
        }
    }
}

fn bad(reason: String) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, reason)
}

/// The attachment that a query names.
///
/// # Errors
///
/// When a part is missing or unknown.
pub fn attachment(uri: &Uri) -> Result<Id, Failure> {
    let Query(id) = Query::try_from_uri(uri).map_err(|error| bad(error.body_text()))?;
    Ok(id)
}

/// The ranking of prefixes that a query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ranking {
    /// What is ranked by.
    pub by: By,
    /// How many prefixes are told.
    pub limit: usize,
}

impl Default for Ranking {
    fn default() -> Self {
        Self {
            by: By::default(),
            limit: 20,
        }
    }
}

impl TryFrom<&Uri> for Ranking {
    type Error = Failure;

    fn try_from(uri: &Uri) -> Result<Self, Failure> {
        let Query(ranking) = Query::try_from_uri(uri).map_err(|error| bad(error.body_text()))?;
        Ok(ranking)
    }
}

impl TryFrom<&Uri> for Wanted {
    type Error = Failure;

    fn try_from(uri: &Uri) -> Result<Self, Failure> {
        let Query(parts) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| bad(error.to_string()))?;

        let (mut cookie, mut local, mut remote) = (None, None, None);
        for (name, value) in parts {
            let part = match name.as_str() {
                "cookie" => &mut cookie,
                "local" => &mut local,
                "remote" => &mut remote,
                _ => {
                    return Err(bad(format!(
                        "unknown part `{name}`: write cookie=N, or local=A:P&remote=A:P"
                    )));
                }
            };
            if part.replace(value).is_some() {
                return Err(bad(format!("`{name}` is there twice")));
            }
        }
        let end = |name: &str, text: String| {
            text.parse().map_err(|_| {
                bad(format!(
                    "`{name}` is not an address with a port: {text:?}; write 192.0.2.1:80 or \
                     [2001:db8::1]:80"
                ))
            })
        };
        match (cookie, local, remote) {
            (Some(text), None, None) => match text.parse() {
                Ok(cookie) => Ok(Self::Cookie(cookie)),
                Err(_) => Err(bad(format!("`cookie` is not a number: {text:?}"))),
            },
            (None, Some(local), Some(remote)) => Ok(Self::Ends {
                local: end("local", local)?,
                remote: end("remote", remote)?,
            }),
            (None, Some(_), None) => Err(bad("`remote` is missing beside `local`".into())),
            (None, None, Some(_)) => Err(bad("`local` is missing beside `remote`".into())),
            (None, None, None) => Err(bad(
                "which connection? write cookie=N, or local=A:P&remote=A:P".into(),
            )),
            (Some(_), ..) => Err(bad(
                "`cookie` names the connection alone: leave out `local` and `remote`".into(),
            )),
        }
    }
}
