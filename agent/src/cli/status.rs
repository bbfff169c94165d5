//! `truepeer status`

use std::collections::BTreeMap;

use agent_common::Counter;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::{
    arguments::ReadArgs,
    output::{Format, print, print_json, print_table},
    reader::Reader,
};
use crate::{
    api::{AgentReport, PolicyTally, Report},
    connections::origins::{Link, MapFill},
    host::processes,
};

/// Show programs, pins, how full the maps are, and counters
///
/// Works without an agent too, from what is pinned.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  truepeer status
  truepeer status -o json | jq .counters.steer_no_listener
  truepeer status --here            As a container's probe, while one agent follows another")]
pub(super) struct Args {
    #[command(flatten)]
    read: ReadArgs,

    /// Fail unless the agent that serves is of this container, which is this mount namespace
    #[arg(long)]
    here: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let reader = Reader::new(&args.read)?;
    if args.here {
        ensure_here(&reader)?;
    }
    let report: serde_json::Value = reader.read("/v1/status", |origins, names| {
        let report = Report::new(None, origins.status()?, names);
        Ok(serde_json::to_value(report)?)
    })?;
    ensure!(!args.here || !report["agent"].is_null(), "no agent answers");
    match args.read.output.output {
        Format::Json => print_json(&report),
        Format::Table => {
            let known = serde_json::from_value(report);
            tables(&known.context("the agent's answer is of another version")?)
        }
    }
}

/// Fails unless the agent that listens is of this mount namespace. It answers once it is in place.
fn ensure_here(reader: &Reader) -> Result<()> {
    match reader.listener()? {
        Some(pid) if processes::shares_mounts(pid)? => Ok(()),
        Some(pid) => bail!("the agent that serves (process {pid}) is of another container"),
        None => bail!("no agent serves that can be seen from here"),
    }
}

/// A [`Report`], as the tables show it.
#[derive(Deserialize)]
struct Known {
    agent: Option<AgentReport>,
    links: Vec<Link>,
    maps: Vec<MapFill>,
    counters: BTreeMap<String, u64>,
    policies: Vec<PolicyTally>,
}

fn tables(known: &Known) -> Result<()> {
    let agent = match &known.agent {
        Some(agent) => format!(
            "agent {}, process {}, {} since {}\n\n",
            agent.version,
            agent.pid,
            if agent.ready {
                "serving"
            } else {
                "starting or draining"
            },
            agent.started,
        ),
        None => "agent: not running\n\n".into(),
    };
    print(&agent)?;
    if let Some(agent) = &known.agent {
        let waiting = agent.waiting.iter();
        let waiting = waiting.map(|thing| format!("waiting for {thing}\n"));
        let put_back = agent.put_back.iter();
        let put_back = put_back.map(|p| {
            format!(
                "put back {} (times: {}, last: {})\n",
                p.what, p.times, p.last
            )
        });
        let upkeep: String = waiting.chain(put_back).collect();
        if !upkeep.is_empty() {
            print(&format!("{upkeep}\n"))?;
        }
    }

    let row = |link: &Link| {
        vec![
            link.program.clone(),
            link.program_id.to_string(),
            link.target.clone(),
            link.pin.display().to_string(),
        ]
    };
    let rows: Vec<_> = known.links.iter().map(row).collect();
    print_table(&["PROGRAM", "ID", "ATTACHED TO", "PIN"], &rows)?;
    print("\n")?;

    let row = |map: &MapFill| {
        let share = 100.0 * map.entries as f64 / map.max_entries.max(1) as f64;
        vec![
            map.name.clone(),
            map.entries.to_string(),
            map.max_entries.to_string(),
            format!("{share:.1} %"),
        ]
    };
    let rows: Vec<_> = known.maps.iter().map(row).collect();
    print_table(&["MAP", "ENTRIES", "MAX", "FULL"], &rows)?;
    print("\n")?;

    if !known.policies.is_empty() {
        let row = |tally: &PolicyTally| {
            vec![
                tally.policy.clone(),
                tally.allowed.to_string(),
                tally.denied.to_string(),
            ]
        };
        let rows: Vec<_> = known.policies.iter().map(row).collect();
        print_table(&["POLICY", "ALLOWED", "DENIED"], &rows)?;
        print("\n")?;
    }

    let rows: Vec<_> = Counter::ALL
        .into_iter()
        .filter_map(|counter| {
            let value = known.counters.get(counter.name())?.to_string();
            Some(vec![
                counter.name().to_owned(),
                value,
                counter.help().to_owned(),
            ])
        })
        .collect();
    print_table(&["COUNTER", "VALUE", "WHAT IT COUNTS"], &rows)
}
