//! TCP Fast Open (RFC 7413): a SYN with a cookie would open a connection before its header has come.

use std::io::{self, ErrorKind, Write as _};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Result, ensure};
use tests::agent::Agent;
use tests::clients::fast_open::{Cookies, allow, connect, opened};
use tests::clients::load::PING;
use tests::clients::tcp::seen;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::v2;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};

use crate::stage::{Established, PORT, distrust, in_pod};

/// A client that has the server's cookies for both families.
struct Stage {
    sidecar: Sidecar,
    #[expect(dead_code, reason = "stops on drop")]
    report: Report,
}

impl Stage {
    fn new() -> Result<Self> {
        let sidecar = Sidecar::new()?;
        for netns in [&sidecar.client, &sidecar.pod] {
            allow(netns, Cookies::Wanted)?;
        }
        let report = Report::start(&sidecar.pod, any(PORT))?;
        // The first connection of each asks for the cookie.
        for family in [Family::V4, Family::V6, Family::V4, Family::V6] {
            let target = (Sidecar::address(family), PORT).into();
            seen(&mut connect(&sidecar.client, None, target, PING)?)?;
        }
        let opened = opened(&sidecar.pod)?;
        ensure!(opened == 2, "{opened} connections were opened by a SYN");
        Ok(Self { sidecar, report })
    }

    /// Sends a SYN with a cookie and without data to an unwrapped port of an agent that believes the client or not.
    fn each(
        &self,
        directory: &Path,
        is_trusted: bool,
        tried: impl Fn(Result<TcpStream>, Family) -> Result<()>,
    ) -> Result<()> {
        let Sidecar { client, pod, .. } = &self.sidecar;
        let mut config = in_pod(directory, &self.sidecar, &["8080"])?;
        if !is_trusted {
            distrust(&mut config);
        }
        let _agent = Agent::start(directory, config)?;
        let repeated = client.tcp_counter("TCPTimeouts")?;
        for family in Family::ALL {
            let target = (Sidecar::address(family), PORT).into();
            tried(connect(client, None, target, &[]), family)?;
        }
        let repeated = client.tcp_counter("TCPTimeouts")? - repeated;
        ensure!(repeated == 0, "{repeated} segments were sent again");
        let opened = opened(pod)?;
        ensure!(
            opened == 2,
            "{opened} connections were opened by a SYN, two of them without the agent"
        );
        Ok(())
    }
}

/// The header is read and taken off as without a cookie.
#[test]
fn with_a_header() {
    scenario(|directory| {
        Stage::new()?.each(directory, true, |connected, family| {
            let mut stream = connected?;
            let target = (Sidecar::address(family), PORT).into();
            let client = Established::client(family);
            stream.write_all(&v2(client, target))?;
            let seen = seen(&mut stream)?;
            ensure!(seen.accepted == client, "{seen:?}");
            Ok(())
        })
    });
}

/// Who is not trusted gets no connection, not even one without data.
#[test]
fn of_who_is_not_trusted() {
    scenario(|directory| {
        Stage::new()?.each(directory, false, |connected, _| {
            let error = connected.err();
            let error = error.as_ref().and_then(|error| error.downcast_ref());
            let kind = error.map(io::Error::kind);
            ensure!(kind == Some(ErrorKind::ConnectionRefused), "{kind:?}");
            Ok(())
        })
    });
}
