//! `truepeer peers`

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::Result;
use clap::ValueEnum as _;
use serde::Serialize;

use super::{
    arguments::ReadArgs,
    output::{Columns, Format, print, print_json, print_table},
    reader::Reader,
};
use crate::{
    connections::peers::Peer,
    host::processes::Owners,
    observe::statistics::{By, Counts, Prefix, Statistics, Top},
};

/// How often `--follow` asks the agent.
const LOOK: Duration = Duration::from_secs(1);
const HEADER: [&str; 9] = [
    "COOKIE",
    "CLIENT",
    "ORIGINAL DST",
    "REMOTE",
    "EVIDENCE",
    "TRUSTED BY",
    "PROCESS",
    "POD",
    "SINCE",
];

const TOP_HEADER: [&str; 6] = [
    "PREFIX",
    "OPEN",
    "ENDED",
    "BYTES RECEIVED",
    "BYTES SENT",
    "REFUSED",
];

/// Show live connections with their true client
///
/// Root sees all; other users see their own.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  truepeer peers
  truepeer peers --follow
  truepeer peers -o json | jq -r '.[].client'
  truepeer peers --top
  truepeer peers --top 5 --by bytes")]
pub(super) struct Args {
    /// Keep running, with a line for each connection that begins (+) or has ended (-)
    #[arg(long)]
    follow: bool,

    /// The busiest prefixes of clients instead, since the agent's start; for root
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20", conflicts_with = "follow")]
    top: Option<usize>,

    /// What to sort the prefixes by
    #[arg(
        long,
        value_name = "WHAT",
        requires = "top",
        default_value = "connections"
    )]
    by: By,

    #[command(flatten)]
    read: ReadArgs,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let reader = Reader::new(&args.read)?;
    let output = args.read.output.output;
    if args.follow {
        return follow(&reader, output);
    }
    if let Some(limit) = args.top {
        return top(&reader, args.by, limit, output);
    }
    let peers = list(&reader)?;
    match output {
        Format::Json => print_json(&peers),
        Format::Table => {
            let rows: Vec<_> = peers.iter().map(cells).collect();
            print_table(&HEADER, &rows)
        }
    }
}

fn list(reader: &Reader) -> Result<Vec<Peer>> {
    reader.read("/v1/peers", |origins, names| {
        let origins = origins.all()?.into_iter().collect();
        let owners = Owners::snapshot()?;
        reader.viewer(names, &owners).all(&origins)
    })
}

fn top(reader: &Reader, by: By, limit: usize, format: Format) -> Result<()> {
    let name = by.to_possible_value().expect("none is hidden");
    let path = format!("/v1/top?by={}&limit={limit}", name.get_name());
    let top: Top = reader.read(&path, |origins, _| {
        // Only open connections: the counts of those that have ended went with the agent.
        Statistics::new(reader.config.agent.top).top(origins, by, limit)
    })?;
    if format == Format::Json {
        return print_json(&top);
    }
    let row = |Prefix {
                   prefix,
                   open,
                   counts,
               }: &Prefix| {
        let mut row = vec![prefix.to_string(), open.to_string()];
        row.extend(cells_of(counts));
        row
    };
    let mut rows: Vec<_> = top.prefixes.iter().map(row).collect();
    if top.error != Counts::default() {
        let mut row = vec!["(at most so many more)".to_owned(), String::new()];
        row.extend(cells_of(&top.error));
        rows.push(row);
    }
    print_table(&TOP_HEADER, &rows)
}

/// The cells of a prefix's counts.
fn cells_of(counts: &Counts) -> [String; 4] {
    let Counts {
        connections,
        bytes_received,
        bytes_sent,
        refused,
    } = counts;
    [connections, bytes_received, bytes_sent, refused].map(u64::to_string)
}

/// A connection that has begun or ended.
#[derive(Serialize)]
struct Change<'a> {
    event: &'static str,
    #[serde(flatten)]
    peer: &'a Peer,
}

fn follow(reader: &Reader, format: Format) -> Result<()> {
    let mut header = vec!["", "TIME"];
    header.extend(HEADER);
    header.pop();
    let mut known: BTreeMap<u64, Peer> = BTreeMap::new();
    let mut columns = None;
    loop {
        let now: BTreeMap<_, _> = list(reader)?.into_iter().map(|p| (p.cookie, p)).collect();
        let ended = known.values().filter(|p| !now.contains_key(&p.cookie));
        let begun = now.values().filter(|p| !known.contains_key(&p.cookie));
        let changes: Vec<_> = ended
            .map(|p| ("-", p))
            .chain(begun.map(|p| ("+", p)))
            .collect();
        match format {
            Format::Json => {
                for (event, peer) in changes {
                    let event = if event == "+" { "begin" } else { "end" };
                    print(&(serde_json::to_string(&Change { event, peer })? + "\n"))?;
                }
            }
            Format::Table => {
                let rows: Vec<_> = changes.iter().map(|(sign, p)| change(sign, p)).collect();
                // The first rows set the widths for all that follow.
                if columns.is_none() && !rows.is_empty() {
                    let titles: Vec<_> = header.iter().map(ToString::to_string).collect();
                    let widths = Columns::new(&header, &rows);
                    print(&widths.line(&titles))?;
                    columns = Some(widths);
                }
                if let Some(columns) = &columns {
                    print(&rows.iter().map(|row| columns.line(row)).collect::<String>())?;
                }
            }
        }
        known = now;
        thread::sleep(LOOK);
    }
}

/// A row of `--follow`: the sign, the time of the change, and all the usual cells but the last.
fn change(sign: &str, peer: &Peer) -> Vec<String> {
    let time = match sign {
        "+" => peer.since.clone(),
        _ => humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
    };
    let mut row = vec![sign.to_owned(), time];
    row.extend(cells(peer));
    row.pop();
    row
}

/// A row of the table of connections.
fn cells(peer: &Peer) -> Vec<String> {
    vec![
        peer.cookie.to_string(),
        peer.client.to_string(),
        peer.original_dst.to_string(),
        peer.remote.to_string(),
        peer.evidence.clone(),
        peer.trusted_by.clone(),
        process(peer),
        pod(peer),
        peer.since.clone(),
    ]
}

/// `shop/web-0/nginx`, or `-`.
pub(super) fn pod(peer: &Peer) -> String {
    let workload = peer.workload.as_ref();
    workload.map_or_else(|| "-".into(), ToString::to_string)
}

/// `nginx[771]`, or `-`.
pub(super) fn process(peer: &Peer) -> String {
    match (&peer.comm, peer.pid) {
        (Some(comm), Some(pid)) => format!("{comm}[{pid}]"),
        _ => "-".into(),
    }
}
