//! What the CNI plugin costs a container runtime, and pods the agent.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::json;
use tests::agent::{Agent, Config};
use tests::cluster::cni::{Pod, Runtime};
use tests::host::netns::Netns;
use tests::table;

use crate::footprint::rss;
use crate::pod::{PORT, directory};
use crate::stats::percentile;

/// Its name for `--only`.
pub(crate) const NAME: &str = "cni";
/// How many pods there are while one is removed and added.
const PODS: usize = 100;
/// How many are removed and added at the same time in the second measurement.
const PARALLEL: usize = 4;
/// The goal for the 99th percentile, in milliseconds.
const GOAL: f64 = 20.0;

/// Milliseconds until the plugin has answered.
#[derive(Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
}

impl Latency {
    fn of(values: &[Duration]) -> Self {
        let at = |percent| percentile(values.to_vec(), percent).as_secs_f64() * 1e3;
        Self {
            p50: at(50),
            p99: at(99),
        }
    }
}

/// What was measured with so many pods.
#[derive(Serialize)]
pub(crate) struct Cni {
    pods: usize,
    /// One after the other.
    add_ms: Latency,
    del_ms: Latency,
    /// Several at the same time.
    parallel: usize,
    parallel_add_ms: Latency,
    parallel_del_ms: Latency,
    /// Resident memory of the agent without pods and with all, in bytes.
    rss_idle: u64,
    rss: u64,
}

/// Adds and removes pods in which a port is steered.
pub(crate) fn measure() -> Result<Cni> {
    let directory = directory()?;
    let node = Netns::new("node")?;
    let config = Config::new(directory.path(), [])?;
    let rules = json!({"steer": [{"name": "inbound", "ports": [PORT.to_string()], "to": 15006}]});
    let runtime = Runtime::new(&node, "1.1.0", &config, &[], rules);
    let agent = Agent::start(directory.path(), config)?;
    let rss_idle = rss(&agent)?;
    let pods = (0..PODS).map(|n| runtime.made(&format!("pod{n}")));
    let pods = pods.collect::<Result<Vec<_>>>()?;
    for pod in &pods {
        runtime.add(pod)?;
    }
    let rss = rss(&agent)?;
    let (del, add) = again(&runtime, &pods, 1)?;
    let (parallel_del, parallel_add) = again(&runtime, &pods, PARALLEL)?;
    ensure!(agent.pods()?.len() == PODS, "not all pods are served");
    agent.stop()?;
    Ok(Cni {
        pods: PODS,
        add_ms: Latency::of(&add),
        del_ms: Latency::of(&del),
        parallel: PARALLEL,
        parallel_add_ms: Latency::of(&parallel_add),
        parallel_del_ms: Latency::of(&parallel_del),
        rss_idle,
        rss,
    })
}

type Durations = Vec<Duration>;

/// Removes and adds each pod; how long each took.
fn again(runtime: &Runtime<'_>, pods: &[Pod], parallel: usize) -> Result<(Durations, Durations)> {
    let some = |some: &[Pod]| -> Result<Vec<(Duration, Duration)>> {
        let both = |pod: &Pod| {
            Ok((
                time(|| runtime.del(pod))?,
                time(|| runtime.add(pod).map(drop))?,
            ))
        };
        some.iter().map(both).collect()
    };
    let times = std::thread::scope(|scope| {
        let chunks = pods.chunks(pods.len().div_ceil(parallel));
        let threads: Vec<_> = chunks
            .map(|chunk| scope.spawn(move || some(chunk)))
            .collect();
        let times = threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"));
        times.collect::<Result<Vec<_>>>()
    })?;
    Ok(times.into_iter().flatten().unzip())
}

fn time(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

impl Cni {
    /// Prints it for people.
    pub(crate) fn print(&self) {
        println!("\nThe CNI plugin, with {} pods\n", self.pods);
        let header = [
            "one at a time".to_owned(),
            format!("{} at a time", self.parallel),
        ];
        let show = |latency: &Latency| format!("{:.1}, {:.1}", latency.p50, latency.p99);
        let pair = |one: &Latency, several: &Latency| [show(one), show(several)];
        table::print(&[
            table::row("p50, p99, ms", header.into_iter()),
            table::row("ADD", pair(&self.add_ms, &self.parallel_add_ms).into_iter()),
            table::row("DEL", pair(&self.del_ms, &self.parallel_del_ms).into_iter()),
        ]);
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "\nmemory of the agent: {:.1} MB without pods, {:.1} MB with them",
            megabytes(self.rss_idle),
            megabytes(self.rss)
        );
        for (what, latency) in [("ADD", &self.add_ms), ("DEL", &self.del_ms)] {
            let met = if latency.p99 < GOAL { "met" } else { "not met" };
            println!(
                "goal: p99 of {what} under {GOAL} ms: {:.1}, {met}",
                latency.p99
            );
        }
    }
}
