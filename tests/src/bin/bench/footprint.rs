//! What the agent itself costs: time to start, binary, memory.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use agent_common::Origin;
use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tests::agent::{Agent, binary};
use tests::host::netns::Netns;
use tests::proxies::any_v4;
use tests::table;
use tests::topology::istio::INBOUND;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use crate::client::bind;
use crate::idle;
use crate::pod::{PORT, directory, steering};
use crate::proc::value;
use crate::stats::Spread;
use tests::stop::Stop;

/// How many agents are started.
const STARTS: usize = 7;
/// How many connections the agent tracks meanwhile.
const TRACKED: usize = 10_000;
/// Descriptors: one for each connection, and some for all else.
const OPEN_FILES: u64 = TRACKED as u64 + 1000;
/// How long the kernel may take to settle.
const SETTLE: Duration = Duration::from_millis(300);

/// The agent's costs. Sizes are bytes.
#[derive(Serialize)]
pub(crate) struct Footprint {
    /// Milliseconds from the start of the process until `/readyz` said ready.
    pub(crate) ready_ms: Spread,
    /// Milliseconds until everything was attached, as the agent logs them.
    pub(crate) attached_ms: Spread,
    /// Size of the binary.
    pub(crate) binary: u64,
    /// Resident memory of an agent that has just started.
    pub(crate) rss_idle: Spread,
    /// Connections tracked in the following figures.
    pub(crate) tracked: usize,
    /// Resident memory of the agent that tracks them.
    pub(crate) rss_tracking: Spread,
    /// Kernel memory of the map of origins when it is empty.
    pub(crate) map_empty: Spread,
    /// What each tracked connection adds to that, by the kernel's own account.
    pub(crate) map_per_connection: Spread,
    /// What each tracked connection adds to the kernel's general-purpose slabs, compared with the
    /// same connections without truepeer: the origin, and what is stored with the socket.
    pub(crate) kernel_per_connection: Spread,
}

/// What one agent's life showed.
struct Life {
    ready_ms: f64,
    attached_ms: f64,
    rss_idle: u64,
    rss_tracking: u64,
    map_empty: u64,
    map_tracking: u64,
    /// Growth of the slabs by the connections, with truepeer and without.
    slabs: i64,
    slabs_without: i64,
}

/// Starts agents one after the other.
pub(crate) fn measure(stop: &Stop) -> Result<Footprint> {
    let lives = (0..STARTS)
        .map(|_| Life::live(stop))
        .collect::<Result<Vec<_>>>()?;
    let spread = |of: fn(&Life) -> f64| Spread::of(lives.iter().map(of));
    Ok(Footprint {
        ready_ms: spread(|life| life.ready_ms),
        attached_ms: spread(|life| life.attached_ms),
        binary: binary()?.metadata()?.size(),
        rss_idle: spread(|life| life.rss_idle as f64),
        tracked: TRACKED,
        rss_tracking: spread(|life| life.rss_tracking as f64),
        map_empty: spread(|life| life.map_empty as f64),
        map_per_connection: spread(|life| {
            (life.map_tracking as f64 - life.map_empty as f64) / TRACKED as f64
        }),
        kernel_per_connection: spread(|life| {
            (life.slabs - life.slabs_without) as f64 / TRACKED as f64
        }),
    })
}

impl Footprint {
    /// Prints it for people.
    pub(crate) fn print(&self) {
        println!("\nThe agent\n");
        let rows = [
            ("start to ready, ms", self.ready_ms.show(1.0, 0)),
            (
                "start to attached (its log), ms",
                self.attached_ms.show(1.0, 0),
            ),
            ("binary, MB", format!("{:.1}", self.binary as f64 / 1e6)),
            ("memory idle, MB", self.rss_idle.show(1e6, 1)),
            (
                "memory with 10,000 connections, MB",
                self.rss_tracking.show(1e6, 1),
            ),
            (
                "kernel: empty map of origins, MB",
                self.map_empty.show(1e6, 1),
            ),
            (
                "kernel: map, bytes per connection",
                self.map_per_connection.show(1.0, 0),
            ),
            (
                "kernel: all, bytes per connection",
                self.kernel_per_connection.show(1.0, 0),
            ),
        ];
        table::print(&rows.map(|(what, value)| table::row(what, std::iter::once(value))));
    }
}

impl Life {
    fn live(stop: &Stop) -> Result<Self> {
        let slabs_without = {
            let sidecar = Sidecar::new()?;
            let _proxy = listen(&sidecar.pod)?;
            let before = slabs(stop)?;
            let _held = hold(&sidecar, INBOUND)?;
            slabs(stop)? - before
        };
        let directory = directory()?;
        let sidecar = Sidecar::new()?;
        let proxy = listen(&sidecar.pod)?;
        let mut config = steering(&directory, &sidecar.pod)?;
        config.agent.access_log = "off".into();
        let agent = Agent::start(directory.path(), config)?;
        let before = slabs(stop)?;
        let (rss_idle, map_empty) = (rss(&agent)?, map(&agent)?);
        let held = hold(&sidecar, PORT)?;
        eventually("every connection is tracked", || {
            Ok((agent.origins()? == TRACKED as u64).then_some(()))
        })?;
        let life = Self {
            ready_ms: agent.ready_after.as_secs_f64() * 1e3,
            attached_ms: attached_ms(&agent)?,
            rss_idle,
            rss_tracking: rss(&agent)?,
            map_empty,
            map_tracking: map(&agent)?,
            slabs: slabs(stop)? - before,
            slabs_without,
        };
        drop((held, proxy));
        agent.stop()?;
        Ok(life)
    }
}

/// In the proxy's place: a listener that lets [`TRACKED`] connections wait for `accept()`, where they
/// are established and tracked, and cost no descriptor.
fn listen(pod: &Netns) -> Result<Socket> {
    pod.set_sysctl("net/core/somaxconn", &TRACKED.to_string())?;
    pod.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&any_v4(INBOUND).into())?;
        socket.listen(TRACKED.try_into()?)?;
        Ok(socket)
    })
}

/// Opens [`TRACKED`] connections to `port` of the pod.
fn hold(sidecar: &Sidecar, port: u16) -> Result<Vec<Socket>> {
    let target = SocketAddr::new(Sidecar::address(Family::V4), port).into();
    let connect = |n| {
        let socket = bind(Family::V4.client(n))?;
        socket.connect(&target)?;
        Ok(socket)
    };
    sidecar.client.enter(|| (0..TRACKED).map(connect).collect())
}

/// Bytes in the kernel's general-purpose slabs, which sockets and files do not come from.
fn slabs(stop: &Stop) -> Result<i64> {
    stop.sleep(SETTLE)?;
    Ok(idle::slabs("kmalloc-")? as i64)
}

/// The agent's resident memory.
pub(crate) fn rss(agent: &Agent) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id()))?;
    let kilobytes = value(&status, "VmRSS:").context("no VmRSS of the agent")?;
    Ok(kilobytes * 1024)
}

/// Kernel memory of the agent's map of origins.
fn map(agent: &Agent) -> Result<u64> {
    for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", agent.id()))? {
        let Ok(info) = std::fs::read_to_string(entry?.path()) else {
            continue;
        };
        // Of all maps, only the origins are values of that size.
        if value(&info, "value_size:") == Some(size_of::<Origin>() as u64) {
            return value(&info, "memlock:").context("no memlock in fdinfo");
        }
    }
    anyhow::bail!("the agent has no map of origins open")
}

fn attached_ms(agent: &Agent) -> Result<f64> {
    let log = agent.log()?;
    log.split_once("attached after ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .with_context(|| format!("no `attached after` in the agent's log:\n{log}"))
}

/// Allows as many open files as the measurements need.
pub(crate) fn allow_open_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(OPEN_FILES), hard)
        .with_context(|| format!("cannot open {OPEN_FILES} files: `ulimit -H -n` says {hard}"))
}
