//! What a connection costs in memory while nothing moves on it.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::host::netns::Netns;
use tests::wait::eventually;

use crate::application::IDLE;
use crate::client::open;
use crate::pod::Pod;
use crate::proc::value;
use tests::stop::Stop;

/// How many connections are open: fewer than the 1,024 at which Envoy stops by itself.
const CONNECTIONS: usize = 1000;
/// How long allocations may take to settle.
const SETTLE: Duration = Duration::from_millis(300);

/// What one idle connection costs, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Idle {
    /// In the processes between client and application.
    pub(crate) processes: f64,
    /// In the kernel's slabs, with the sockets of client and application.
    pub(crate) kernel: f64,
}

/// Opens connections and tells what they cost; how many there were.
pub(crate) fn measure(pod: &Pod, stop: &Stop) -> Result<(u64, Idle)> {
    let before = Memory::now(pod, stop)?;
    let before_sockets = sockets(pod.server())?;
    let open = |n| open(pod, n, IDLE);
    let held: Vec<TcpStream> = pod
        .client()
        .enter(|| (0..CONNECTIONS).map(open).collect::<Result<_>>())?;
    // Of a proxy: the accepted socket, its own, and the application's.
    let each = if pod.variant.is_addressed() { 3 } else { 1 };
    eventually("all connections reach the application", || {
        let opened = sockets(pod.server())?.saturating_sub(before_sockets);
        Ok((opened >= each * CONNECTIONS as u64).then_some(()))
    })?;
    let after = Memory::now(pod, stop)?;
    drop(held);
    let each = |before: u64, after: u64| (after as f64 - before as f64) / CONNECTIONS as f64;
    let idle = Idle {
        processes: each(before.processes, after.processes),
        kernel: each(before.slabs, after.slabs),
    };
    Ok((CONNECTIONS as u64, idle))
}

/// Bytes in use.
struct Memory {
    processes: u64,
    slabs: u64,
}

impl Memory {
    fn now(pod: &Pod, stop: &Stop) -> Result<Self> {
        stop.sleep(SETTLE)?;
        let mut processes = 0;
        for pid in pod.processes() {
            processes += with_children(pid)?;
        }
        Ok(Self {
            processes,
            slabs: slabs("")?,
        })
    }
}

/// The share of memory (`Pss`) of a process and its children.
fn with_children(pid: u32) -> Result<u64> {
    let process = format!("/proc/{pid}");
    let rollup = std::fs::read_to_string(format!("{process}/smaps_rollup"))?;
    let mut bytes = value(&rollup, "Pss:").context("no Pss")? * 1024;
    let children = std::fs::read_to_string(format!("{process}/task/{pid}/children"))?;
    for child in children.split_whitespace() {
        bytes += with_children(child.parse()?)?;
    }
    Ok(bytes)
}

/// Bytes in use of the kernel's slabs whose names begin so.
pub(crate) fn slabs(prefix: &str) -> Result<u64> {
    let slabs = std::fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    // slabinfo(5): two lines of head; name, objects in use, objects, size of an object.
    let lines = slabs.lines().skip(2);
    let used = lines.filter(|line| line.starts_with(prefix)).map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let field = |n: usize| -> Option<u64> { fields.get(n)?.parse().ok() };
        let used = field(1).zip(field(3)).map(|(used, size)| used * size);
        used.context("/proc/slabinfo")
    });
    used.sum()
}

/// TCP sockets of a namespace.
fn sockets(netns: &Netns) -> Result<u64> {
    netns.enter(|| {
        let in_use = |file, key| {
            let sockstat = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
            value(&sockstat, key).context("no number of sockets")
        };
        Ok(in_use("sockstat", "TCP: inuse")? + in_use("sockstat6", "TCP6: inuse")?)
    })
}
