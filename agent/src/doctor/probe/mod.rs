//! Real connections through the real data path, in network namespaces of its own: one for each verb.

mod speak;
mod stage;
mod verbs;

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{self, UnixDatagram},
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use self::{
    stage::{Stage, TIMEOUT},
    verbs::{Attempt, VERBS},
};
use super::{
    check::{Check, Outcome},
    programs::needed,
};
use crate::{config::Config, datapath::Pins};

/// The probes as checks: one that fails is a warning if `config` does not need what it tries. They do not try where
/// prerequisites are missing.
pub(super) fn check(host_is_fit: bool, config: &Config) -> Vec<Check> {
    if !host_is_fit {
        let reason = "not tried: something that it needs is missing";
        let consequence = "it is unknown whether the data path works on this host";
        let remedy = "see to what fails above first";
        return vec![Check::wrong(
            Outcome::Fail,
            "probe",
            reason,
            consequence,
            remedy,
        )];
    }
    let _turn = match turn() {
        Ok(turn) => turn,
        Err(error) => return vec![Check::failed("probe", &error)],
    };
    let needed = needed(config);
    let tried = VERBS.iter().map(|attempt| {
        let name = format!("probe {}", attempt.verb);
        match try_one(&config.agent.bpffs, attempt) {
            Ok(families) => Check::ok(name, format!("{} over {families}", attempt.shown)),
            Err(error) => Check::wrong(
                if needed.contains(&attempt.section) {
                    Outcome::Fail
                } else {
                    Outcome::Warn
                },
                name,
                format!("{error:#}"),
                attempt.consequence,
                "see to what is wrong above; else `RUST_LOG=debug truepeer doctor` tells what the kernel says",
            ),
        }
    });
    tried.collect()
}

/// Tries a verb over each IP version, removes everything again, and names the versions.
fn try_one(bpffs: &Path, attempt: &Attempt) -> Result<&'static str> {
    let pins = Pins::of_doctor(bpffs);
    // What a probe that was killed left.
    pins.remove()?;
    let outcome = Stage::new(&pins).and_then(|stage| {
        (attempt.run)(&stage)?;
        Ok(stage.families())
    });
    pins.remove()?;
    outcome
}

/// Waits until no other probe runs. The name of the socket is free again when the socket or its process is gone.
fn turn() -> Result<UnixDatagram> {
    let name = net::SocketAddr::from_abstract_name("truepeer-probe")?;
    let deadline = Instant::now() + 10 * TIMEOUT;
    loop {
        match UnixDatagram::bind_addr(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                ensure!(
                    Instant::now() < deadline,
                    "another probe is running and does not end"
                );
                thread::sleep(Duration::from_millis(20));
            }
            bound => return Ok(bound?),
        }
    }
}
