//! A pod with a server, whose agent takes headers off.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use agent_common::Counter;
use agent_common::unwrap::Refusal;
use anyhow::{Context as _, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Maps, Trust};
use tests::clients::fast_open::{self, Cookies};
use tests::clients::raw::Raw;
use tests::host::netns::Netns;
use tests::model::{Listening, Port};
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use super::server::Server;
use crate::stage::{PORT, in_pod};

/// The port from which cookies for TCP Fast Open are asked for.
const SOURCE: u16 = 1000;
/// How often something happens to the agent.
const EVENTS: u32 = 8;

/// What happens to the agent, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It is killed. The programs stay.
    Killed,
    /// It is started again.
    Started,
    /// Its configuration no longer has the port.
    GivesUp,
    /// It has it again.
    TakesUp,
}

impl Event {
    const ALL: [Self; 4] = [Self::Killed, Self::Started, Self::GivesUp, Self::TakesUp];
}

/// A pod with a server, whose agent takes headers off, and a client that sends segments.
pub(super) struct Stage {
    directory: PathBuf,
    pub(super) sidecar: Sidecar,
    /// Sends for the sender.
    pub(super) raw: Raw,
    /// Sends what no program of the pod's interface sees.
    pub(super) inside: Raw,
    pub(super) maps: Maps,
    agent: Option<Agent>,
    config: Config,
    /// What is done with the port.
    pub(super) port: Port,
    /// Of each family, the option by which a SYN opens a connection by itself.
    fast_open: [Vec<u8>; 2],
    /// How many connections there were, after how many the next event is due and which one, and how far apart they are.
    pub(super) connections: u32,
    due: u32,
    events: usize,
    apart: u32,
    cookies: Option<bool>,
    pub(super) tally: Tally,
}

/// How often each kind of step was taken, and each connection was refused.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<String, u64>);

impl Tally {
    pub(super) fn count(&mut self, what: String) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(super) fn print(&self) {
        for (what, number) in &self.0 {
            println!("  {number:6} {what}");
        }
    }

    /// How often it was.
    pub(super) fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}

impl Stage {
    /// `connections`: how many there are to be.
    pub(super) fn new(directory: &Path, connections: u32) -> Result<Self> {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        // Whatever is to be acknowledged is acknowledged at once, however often.
        pod.ip("route replace default via 10.77.0.1 quickack 1
             -6 route replace default via fd77::1 quickack 1")?;
        for (key, value) in [
            ("tcp_invalid_ratelimit", "0"),
            ("tcp_challenge_ack_limit", "2147483647"),
        ] {
            pod.set_sysctl(&format!("net/ipv4/{key}"), value)?;
        }
        let raw = Raw::new(&sidecar.client)?;
        fast_open::allow(pod, Cookies::Wanted)?;
        let fast_open = [Family::V4, Family::V6].map(|family| cookie(&raw, pod, family));
        let [v4, v6] = fast_open;
        let mut config = in_pod(directory, &sidecar, &[&PORT.to_string()])?;
        config.trust.extend(Trust::saying(
            &["proxy"],
            ["198.51.100.0/24", "2001:db8:1b::/64"],
        ));
        let agent = Agent::start(directory, config.clone())?;
        let apart = (connections / EVENTS).max(1);
        Ok(Self {
            directory: directory.into(),
            raw,
            fast_open: [v4?, v6?],
            inside: Raw::new(pod)?,
            maps: agent.maps()?,
            agent: Some(agent),
            config,
            port: Port::Unwrapped,
            connections: 0,
            due: apart.div_ceil(2),
            events: 0,
            apart,
            cookies: None,
            tally: Tally::default(),
            sidecar,
        })
    }

    /// A server that listens like this.
    pub(super) fn listen(&mut self, target: SocketAddr, listening: Listening) -> Result<Server> {
        let pod = &self.sidecar.pod;
        if self.cookies != Some(listening.cookies) {
            let value = if listening.cookies { "2" } else { "1" };
            pod.set_sysctl("net/ipv4/tcp_syncookies", value)?;
            self.cookies = Some(listening.cookies);
        }
        Server::new(pod, target, listening.defers)
    }

    /// The option by which a SYN to this server opens a connection by itself.
    pub(super) fn fast_open(&self, target: SocketAddr) -> &[u8] {
        &self.fast_open[usize::from(target.is_ipv6())]
    }

    /// What happens to the agent now, if anything.
    pub(super) fn event(&mut self) -> Option<Event> {
        if self.connections < self.due {
            return None;
        }
        self.due += self.apart;
        self.events += 1;
        Some(Event::ALL[(self.events - 1) % Event::ALL.len()])
    }

    /// Has it happen.
    pub(super) fn happens(&mut self, event: Event) -> Result<()> {
        let agent = self.agent.take();
        let running = || agent.context("the agent runs");
        let agent = match event {
            Event::Killed => {
                running()?.kill()?;
                return Ok(());
            }
            Event::Started => Agent::start(&self.directory, self.config.clone())?,
            Event::GivesUp | Event::TakesUp => {
                let port = PORT + u16::from(event == Event::GivesUp);
                self.config.unwrap[0].ports = vec![port.to_string()];
                let agent = running()?;
                agent.reload(&self.config)?;
                agent
            }
        };
        self.agent = Some(agent);
        Ok(())
    }

    /// How many connections were refused for this reason.
    pub(super) fn refused(&self) -> Result<BTreeMap<u32, u64>> {
        let counter = |refusal: &Refusal| {
            Some(match refusal {
                Refusal::Untrusted => Counter::UnwrapUntrusted,
                Refusal::NoHeader => Counter::UnwrapNoHeader,
                Refusal::Invalid => Counter::UnwrapInvalid,
                Refusal::Split => Counter::UnwrapSplit,
                Refusal::Full => Counter::UnwrapFull,
                Refusal::Late => Counter::UnwrapLate,
                Refusal::Denied | Refusal::Inexpressible => return None,
            })
        };
        let all = Refusal::ALL.iter().filter_map(|refusal| {
            let counter = counter(refusal)?;
            let number = self.maps.count(counter);
            Some(number.map(|number| (*refusal as u32, number)))
        });
        all.collect()
    }

    /// Fails if anything is left of the connections, or a SYN opened one.
    pub(super) fn end(mut self) -> Result<()> {
        let opened = fast_open::opened(&self.sidecar.pod)?;
        ensure!(
            opened == 2,
            "{opened} connections were opened by a SYN, two of them without the agent"
        );
        let agent = match self.agent.take() {
            Some(agent) => agent,
            None => Agent::start(&self.directory, self.config.clone())?,
        };
        no_origins(&agent)?;
        eventually("nothing is translated", || {
            Ok((agent.entries("TRANSLATED")? == 0).then_some(()))
        })
    }
}

/// The option by which a SYN to this server opens a connection by itself, as it does here.
fn cookie(raw: &Raw, pod: &Netns, family: Family) -> Result<Vec<u8>> {
    let source = SocketAddr::new(family.balancer(1), SOURCE);
    let target = SocketAddr::new(Sidecar::address(family), PORT);
    let server = Server::new(pod, target, false)?;
    let option = raw.fast_open(source, target)?;
    let opens = SocketAddr::new(source.ip(), SOURCE - 1);
    raw.syn(opens, target, 0, &option)?;
    eventually("a connection that a SYN opens", || server.accept())?;
    Ok(option)
}
