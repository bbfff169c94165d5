//! What others take away from under an agent.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::running::Agent;
use crate::host::netns::{Netns, run};

/// What an administrator or another manager of the network does in a namespace with a steer: the kind of what goes, as
/// [`put_back`] counts it, and the command.
pub const TAKEN: [(&str, &str); 6] = [
    ("rule", "ip rule del pref 133"),
    ("rule", "ip -6 rule del pref 133"),
    ("route", "ip route flush table 133"),
    ("route", "ip -6 route flush table 133"),
    ("sysctl", "sysctl -qw net.ipv4.tcp_fwmark_accept=0"),
    ("sysctl", "sysctl -qw net.ipv6.fwmark_reflect=0"),
];

/// Runs one of these commands.
pub fn command(pod: &Netns, line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let program = words.next().context("not empty")?;
    run(pod.command(program)?.args(words)).map(drop)
}

/// How often the agent has put something of this kind back.
pub fn put_back(agent: &Agent, kind: &str) -> Result<u64> {
    agent.metric(&format!("truepeer_put_back_total{{kind=\"{kind}\"}}"))
}

/// Where the link of a program is pinned: a link whose pin is removed detaches its program. `None` where it is attached
/// otherwise.
pub fn pin(agent: &Agent, program: &str) -> Result<Option<PathBuf>> {
    let status = agent.status()?;
    let mut links = status["links"].as_array().context("links")?.iter();
    let link = links.find(|link| link["program"] == program);
    let pin = link
        .and_then(|link| link["pin"].as_str())
        .with_context(|| program.to_owned())?;
    Ok(pin.contains("/links/").then(|| pin.into()))
}
