//! Relays: whether they listen, and whether their upstreams answer and can be told the client.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    check::{Check, Outcome, or_failed},
    life::Life,
    namespace,
};
use crate::{
    config::{Config, Loop, Relay, Send, loops, unwrapped},
    host::{
        netns::Netns,
        sockets::{self, ListenerInfo},
    },
    relay::reach,
};

/// How long an upstream may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn check(life: &Life, config: &Config) -> Vec<Check> {
    if config.relay.is_empty() {
        return Vec::new();
    }
    or_failed("relays", look(life, config))
}

fn look(life: &Life, config: &Config) -> Result<Vec<Check>> {
    let addresses = Addresses::default();
    let has = |netns: Option<&Path>, ip: IpAddr| addresses.has(netns, ip);
    let loops = loops(&config.relay, &config.steer, &has);
    let everywhere = everywhere()?;
    let mut checks = Vec::new();
    for (number, relay) in config.relay.iter().enumerate() {
        let path = relay.netns.as_deref();
        let netns = match Netns::open_or_current(path) {
            Ok(netns) => netns,
            Err(error) => {
                checks.push(namespace::missing(path, &error));
                continue;
            }
        };
        let listeners = sockets::listeners(&netns, relay.listen.port())?;
        let own = netns.addresses()?;
        checks.push(listens(relay, &listeners, &own, life.is_running(), &netns));
        // A connection to try a loop would go round in it.
        let is_in = |found: &&Loop| found.path.contains(&number);
        if let Some(found) = loops.iter().find(is_in) {
            checks.push(goes_round(relay, found, config));
            continue;
        }
        let named: Vec<_> = relay
            .upstream
            .iter()
            .map(|upstream| {
                let taken = unwrapped(relay, *upstream, &config.unwrap, &has);
                let is_headless = relay.speaks() || relay.send == Send::Plain;
                (
                    *upstream,
                    taken.filter(|_| is_headless).map(|unwrap| unwrap.title()),
                )
            })
            .collect();
        checks.extend(named.iter().filter_map(|(upstream, unwrap)| {
            Some(without_header(relay, *upstream, unwrap.as_ref()?))
        }));
        let is_here = |up: &SocketAddr| {
            up.ip().is_loopback()
                || up.ip().is_unspecified()
                || everywhere.contains(&up.ip().to_canonical())
        };
        let far = relay.upstream.iter().filter(|up| !is_here(up));
        checks.extend(far.filter_map(|up| elsewhere(relay, *up)));
        checks.extend(answers(relay, &try_all(relay, &netns)?, &netns));
    }
    Ok(checks)
}

/// The addresses of all network namespaces that this process sees.
fn everywhere() -> Result<HashSet<IpAddr>> {
    let all = Netns::all()?.into_iter();
    let addresses = all.map(|netns| netns.addresses().unwrap_or_default());
    Ok(addresses.flatten().collect())
}

/// The addresses of network namespaces, each looked up once.
#[derive(Default)]
struct Addresses(RefCell<HashMap<Option<PathBuf>, HashSet<IpAddr>>>);

impl Addresses {
    fn has(&self, netns: Option<&Path>, ip: IpAddr) -> bool {
        let look_up = || {
            let netns = Netns::open_or_current(netns).ok()?;
            netns.addresses().ok()
        };
        let mut known = self.0.borrow_mut();
        let known = known.entry(netns.map(Path::to_owned));
        known
            .or_insert_with(|| look_up().unwrap_or_default())
            .contains(&ip)
    }
}

/// Whether the relay's socket is there, or can be.
fn listens(
    relay: &Relay,
    listeners: &[ListenerInfo],
    own: &HashSet<IpAddr>,
    is_running: bool,
    netns: &Netns,
) -> Check {
    let (listen, ip) = (relay.listen, relay.listen.ip().to_canonical());
    let is_its = |listener: &&ListenerInfo| {
        let address = listener.address.ip();
        address.to_canonical() == ip || address.is_unspecified() && ip.is_unspecified()
    };
    let found = listeners.iter().find(is_its);
    let fail = |reason, consequence, remedy: String| {
        Check::wrong(Outcome::Fail, relay.name(), reason, consequence, remedy)
    };
    if !(ip.is_unspecified() || ip.is_loopback() || own.contains(&ip)) {
        let reason = format!("no interface of {netns} has the address {ip}");
        let remedy = "add the address to an interface, or correct `listen`";
        return fail(reason, "the agent cannot listen there", remedy.into());
    }
    match (found, is_running) {
        (Some(found), true) => Check::ok(
            relay.name(),
            format!("listens on {} in {netns}", found.address),
        ),
        (None, true) => fail(
            format!("the agent runs, and nobody listens on {listen} in {netns}"),
            "connections to it are refused",
            "have the agent read its configuration again (`truepeer reload`), which tells why"
                .into(),
        ),
        (Some(found), false) => fail(
            format!(
                "no agent runs, and somebody else listens on {} in {netns}",
                found.address
            ),
            "the agent does not start",
            format!(
                "`ss -ltnp sport = :{}` shows who; stop it, or correct `listen`",
                listen.port()
            ),
        ),
        (None, false) => Check::wrong(
            Outcome::Warn,
            relay.name(),
            format!("no agent runs, and nobody listens on {listen} in {netns}"),
            "connections to it are refused",
            "start the agent",
        ),
    }
}

fn goes_round(relay: &Relay, found: &Loop, config: &Config) -> Check {
    let names: Vec<_> = found
        .path
        .iter()
        .map(|at| config.relay[*at].name())
        .collect();
    let reason = match &names[..] {
        [_] => "connects to itself".to_owned(),
        names => format!("its connections come back to it: {}", names.join(", ")),
    };
    Check::wrong(
        Outcome::Fail,
        relay.name(),
        reason,
        "each connection makes further ones until `max_connections` are open",
        "correct `upstream`: it is where the servers are",
    )
}

fn without_header(relay: &Relay, upstream: SocketAddr, unwrap: &str) -> Check {
    Check::wrong(
        Outcome::Fail,
        relay.name(),
        format!("{unwrap} waits for a PROXY header on {upstream}, and the relay sends none"),
        "every connection is refused there",
        "write `send = \"proxy-v2\"`, or another port of the server as `upstream`",
    )
}

/// The finding that what concerns this host alone cannot tell the client to an upstream on another.
fn elsewhere(relay: &Relay, upstream: SocketAddr) -> Option<Check> {
    let consequence = match relay.send {
        Send::Reveal => "the server sees this host instead of the client",
        Send::Transparent => {
            "the server's answers go to the client, who does not expect them: connections hang"
        }
        _ => return None,
    };
    Some(Check::wrong(
        Outcome::Warn,
        relay.name(),
        format!("no network namespace of this host has the address of its upstream {upstream}"),
        consequence,
        "write `send = \"toa\"` (and [carry.toa]) or `send = \"proxy-v2\"` for a server on another host",
    ))
}

/// Connects to every upstream at once, from where the relay runs.
fn try_all(relay: &Relay, netns: &Netns) -> Result<Vec<(SocketAddr, Result<()>)>> {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let attempts = relay.upstream.iter().map(async |upstream| {
            let attempt = tokio::time::timeout(PATIENCE, reach(relay.send, *upstream));
            let within = || format!("no answer within {} s", PATIENCE.as_secs());
            (*upstream, attempt.await.with_context(within).flatten())
        });
        Ok(runtime.block_on(futures_util::future::join_all(attempts)))
    })
}

fn answers(relay: &Relay, tried: &[(SocketAddr, Result<()>)], netns: &Netns) -> Vec<Check> {
    let name = || format!("upstreams of {}", relay.name());
    let up: Vec<_> = tried
        .iter()
        .filter(|(_, tried)| tried.is_ok())
        .map(|(up, _)| up.to_string())
        .collect();
    let mut checks = Vec::new();
    for (upstream, tried) in tried {
        let Err(error) = tried else { continue };
        let (outcome, consequence) = match &up[..] {
            [] => (
                Outcome::Fail,
                "every connection is refused (reason `upstream`)",
            ),
            _ => (Outcome::Warn, "its clients go to the others"),
        };
        checks.push(Check::wrong(
            outcome,
            name(),
            format!("{upstream} does not answer in {netns}: {error:#}"),
            consequence,
            "start the server, open the way to it, or correct `upstream`",
        ));
    }
    if !up.is_empty() {
        checks.push(Check::ok(
            name(),
            format!("{} accepts connections", up.join(", ")),
        ));
    }
    checks
}
