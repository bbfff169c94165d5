//! What truepeer costs, compared with what others cost and with nothing at all, in namespaces of its own;
//! then what the agent itself costs.
//!
//! Each round measures every variant once, in another order each time, in a pod laid out for that
//! measurement alone. Figures of one round are compared, because the rest of the machine
//! never behaves the same twice.

mod application;
mod arguments;
mod client;
mod cni;
mod comparison;
mod cpu;
mod figure;
mod footprint;
mod idle;
mod load;
mod pod;
mod proc;
mod progress;
mod report;
mod stats;
mod syn;
mod variant;
mod work;

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use tests::host::netns::require_privileges;
use tests::host::process::find;
use tests::host::traces::remove_orphans;
use tests::host::turn;

use crate::arguments::Arguments;
use crate::pod::Pod;
use crate::report::{Report, Samples};
use crate::variant::Variant;
use tests::stop::Stop;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    require_privileges()?;
    for (variable, program) in [
        ("ENVOY_BIN", "envoy"),
        ("IPTABLES_RESTORE_BIN", "iptables-restore"),
        ("IP6TABLES_RESTORE_BIN", "ip6tables-restore"),
    ] {
        find(variable, program)?;
    }
    let json = arguments
        .json
        .as_ref()
        .map(|path| File::create(path).with_context(|| format!("cannot write {}", path.display())))
        .transpose()?;
    footprint::allow_open_files()?;
    let _turn = turn()?;
    let stop = Stop::on_signals()?;
    remove_orphans()?;

    let mut samples = compare(&arguments, &stop)?;
    let footprint = arguments
        .only
        .is_empty()
        .then(|| {
            eprintln!("the agent itself");
            footprint::measure(&stop)
        })
        .transpose()?;
    let cni = if arguments.wants(cni::NAME) {
        eprintln!("the CNI plugin");
        samples.background.push(cpu::wait_until_quiet(&stop)?);
        Some(cni::measure()?)
    } else {
        None
    };
    let report = Report::new(&arguments, &samples, footprint, cni)?;
    report.print();
    if let Some(file) = json {
        serde_json::to_writer_pretty(file, &report)?;
    }
    report.check()
}

/// Measures all variants, round by round.
fn compare(arguments: &Arguments, stop: &Stop) -> Result<Samples> {
    let time = Duration::from_secs_f64(arguments.seconds);
    let comparisons = arguments.comparisons();
    let mut wanted: Vec<_> = Variant::ALL
        .map(|variant| (variant, comparison::works(&comparisons, variant)))
        .into_iter()
        .filter(|(_, works)| !works.is_empty())
        .collect();
    let mut samples = Samples::default();
    if wanted.is_empty() {
        return Ok(samples);
    }
    for round in 0..arguments.rounds {
        let mut of_round = report::Round::new();
        for (variant, works) in &wanted {
            let name = variant.name();
            eprint!("round {}/{}: {name}: ", round + 1, arguments.rounds);
            let pod = Pod::new(*variant, arguments.family(), arguments.concurrency)
                .with_context(|| name)?;
            samples.background.push(cpu::wait_until_quiet(stop)?);
            for &work in works {
                let sample = load::measure(&pod, work, arguments.concurrency, time, stop)
                    .with_context(|| format!("{name}: {}", work.name()))?;
                eprint!("{}  ", report::progress(work, &sample));
                of_round.insert((*variant, work), sample);
            }
            eprintln!();
            pod.remove()?;
        }
        samples.rounds.push(of_round);
        wanted.rotate_left(1);
    }
    Ok(samples)
}
