//! A pod that takes headers of load balancers, and the connections that are tried with it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::agent::records::{no_origins, none_refused};
use tests::agent::{Agent, Trust};
use tests::clients::raw::{Connection, LINUX, Raw};
use tests::proxies::any;
use tests::proxies::proxy_header::{v1, v2, with_tlv};
use tests::servers::report::{Report, Seen};
use tests::topology::{Family, Sidecar};

use crate::stage::in_pod;

pub(super) const PORT: u16 = 8080;

/// A pod that takes headers of load balancers, with the report server.
pub(super) struct Stage {
    pub(super) sidecar: Sidecar,
    pub(super) raw: Raw,
    pub(super) agent: Agent,
    pub(super) _report: Report,
}

impl Stage {
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let sidecar = Sidecar::new()?;
        let mut config = in_pod(directory, &sidecar, &["8080-8081"])?;
        config.trust.extend(Trust::saying(
            &["proxy"],
            ["198.51.100.0/24", "2001:db8:1b::/64"],
        ));
        Ok(Self {
            raw: Raw::new(&sidecar.client)?,
            agent: Agent::start(directory, config)?,
            _report: Report::start(&sidecar.pod, any(PORT))?,
            sidecar,
        })
    }

    /// Runs `body` for each family, with and without SYN cookies and options, with headers of several
    /// kinds: of the expected length, shorter and longer.
    pub(super) fn each(&self, mut body: impl FnMut(&Case<'_>) -> Result<()>) -> Result<()> {
        let mut number = 0;
        for cookies in ["0", "2"] {
            let pod = &self.sidecar.pod;
            pod.set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
            for family in Family::ALL {
                let client = SocketAddr::new(family.client(6), 4711);
                let target = SocketAddr::new(Sidecar::address(family), PORT);
                let headers = [
                    v2(client, target),
                    with_tlv(client, target, Some(40)),
                    v2(client, target),
                    v1(client, target),
                ];
                for options in [&[][..], &LINUX] {
                    for header in &headers {
                        number += 1;
                        let case = Case {
                            raw: &self.raw,
                            number,
                            client,
                            source: SocketAddr::new(family.balancer(1), 40_000),
                            target,
                            options,
                            header,
                        };
                        body(&case).with_context(|| {
                            format!(
                                "{family:?}, syncookies {cookies}, options {options:?}, a header of {}",
                                header.len()
                            )
                        })?;
                    }
                }
            }
        }
        none_refused(&self.agent)?;
        no_origins(&self.agent)
    }
}

/// One connection to try. All of them use the same port of the load balancer again.
pub(super) struct Case<'a> {
    pub(super) raw: &'a Raw,
    pub(super) number: u32,
    pub(super) client: SocketAddr,
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) options: &'a [u8],
    pub(super) header: &'a [u8],
}

impl<'a> Case<'a> {
    pub(super) fn isn(&self) -> u32 {
        // Each is later than the last on this port; those of the tenth begin again within the header.
        const STEP: u32 = 0x0700_0000;
        STEP.wrapping_mul(self.number.wrapping_sub(10))
            .wrapping_sub(20)
    }

    pub(super) fn connect(&self) -> Result<Connection<'a>> {
        let Self { source, target, .. } = *self;
        self.raw.connect(source, target, self.isn(), self.options)
    }

    pub(super) fn with(&self, payload: &[u8]) -> Vec<u8> {
        [self.header, payload].concat()
    }

    /// The server reports the client and then echoes `text`.
    pub(super) fn answered(&self, connection: &mut Connection<'_>, text: &str) -> Result<()> {
        let report = connection.receive()?;
        let (line, mut echo) = match report.split_once('\n') {
            Some((line, echo)) => (line, echo.to_owned()),
            None => (report.as_str(), String::new()),
        };
        let seen: Seen = serde_json::from_str(line)?;
        ensure!(
            seen.accepted == self.client && seen.peername == self.client,
            "{seen:?}"
        );
        while echo.len() < text.len() {
            echo += &connection.receive()?;
        }
        ensure!(echo == text, "{echo:?} instead of {text:?}");
        Ok(())
    }
}
