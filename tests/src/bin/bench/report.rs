//! The figures, for people and for machines.
//!
//! The JSON file holds one [`Report`]. Every figure of several rounds is a [`Spread`]:
//! `{"median", "quartiles": [first, third], "min", "max", "values"}`, the values in the order of the
//! rounds.
//!
//! ```json
//! {
//!   "kernel": "6.18.0", "processors": 2, "family": "IPv4",
//!   "rounds": 12, "seconds": 1.0, "concurrency": 32,
//!   "background": Spread,
//!   "variants": [{"variant": "iptables", "failed": 0, "figures": {"connections_per_second": Spread}}],
//!   "ratios": [{"variant": "truepeer", "to": "iptables", "figures": {"connections_per_second": Spread}}],
//!   "agent": Footprint
//! }
//! ```
//!
//! Variants are `direct`, `iptables`, `truepeer` and `truepeer-logging`; the figures' names are those
//! of [`Figure::key`]. `background` is the share of the machine that was busy before a measurement.

use std::collections::BTreeMap;

use anyhow::Result;
use nix::sys::utsname::uname;
use serde::Serialize;

use crate::Arguments;
use crate::cpu;
use crate::footprint::Footprint;
use crate::load::{Sample, Work};
use crate::pod::Variant;
use crate::stats::Spread;

/// What is compared with what.
const COMPARISONS: [(Variant, Variant); 4] = [
    (Variant::Iptables, Variant::Direct),
    (Variant::Truepeer, Variant::Direct),
    (Variant::Truepeer, Variant::Iptables),
    (Variant::TruepeerLogging, Variant::Truepeer),
];

/// What one round measured.
pub(crate) type Round = BTreeMap<(Variant, Work), Sample>;

/// All measurements.
#[derive(Default)]
pub(crate) struct Samples {
    /// Round by round.
    pub(crate) rounds: Vec<Round>,
    /// The share of the machine that others used, before each measurement.
    pub(crate) background: Vec<f64>,
}

/// Everything that was found.
#[derive(Serialize)]
pub(crate) struct Report {
    kernel: String,
    processors: u32,
    family: &'static str,
    rounds: u32,
    seconds: f64,
    concurrency: u16,
    background: Spread,
    variants: Vec<OfVariant>,
    ratios: Vec<Ratio>,
    agent: Footprint,
}

#[derive(Serialize)]
struct OfVariant {
    variant: Variant,
    /// Connections that failed, in all rounds.
    failed: u64,
    figures: BTreeMap<String, Spread>,
}

#[derive(Serialize)]
struct Ratio {
    variant: Variant,
    to: Variant,
    figures: BTreeMap<String, Spread>,
}

/// What is computed from a measurement.
#[derive(Clone, Copy)]
struct Figure {
    work: Work,
    per: Per,
}

/// What connections or bytes are divided by.
#[derive(Clone, Copy)]
enum Per {
    /// Time.
    Second,
    /// The machine's processor time.
    MachineSecond,
    /// The processes' processor time.
    ProcessSecond,
}

impl Figure {
    fn all() -> impl Iterator<Item = Self> {
        Work::ALL.into_iter().flat_map(|work| {
            [Per::Second, Per::MachineSecond, Per::ProcessSecond].map(|per| Self { work, per })
        })
    }

    /// Its name in JSON.
    fn key(self) -> String {
        let work = match self.work {
            Work::Connections => "connections",
            Work::Upload => "upload_bytes",
            Work::Download => "download_bytes",
        };
        let per = match self.per {
            Per::Second => "second",
            Per::MachineSecond => "cpu_second",
            Per::ProcessSecond => "process_cpu_second",
        };
        format!("{work}_per_{per}")
    }

    /// Its name for people.
    fn name(self) -> String {
        let work = match self.work {
            Work::Connections => "connections",
            Work::Upload => "GB up",
            Work::Download => "GB down",
        };
        let per = match self.per {
            Per::Second => "second",
            Per::MachineSecond => "CPU second",
            Per::ProcessSecond => "CPU second of the processes",
        };
        format!("{work} per {per}")
    }

    fn of(self, round: &Round, variant: Variant) -> f64 {
        let sample = &round[&(variant, self.work)];
        match self.per {
            Per::Second => sample.rate(),
            Per::MachineSecond => sample.per_machine_second(),
            Per::ProcessSecond => sample.per_process_second(),
        }
    }

    /// Median and quartiles, for people.
    fn show(self, spread: &Spread) -> String {
        match self.work {
            Work::Connections => show(spread, 1.0, 0),
            Work::Upload | Work::Download => show(spread, 1e9, 2),
        }
    }
}

/// What one measurement found, for people.
pub(crate) fn progress(work: Work, sample: &Sample) -> String {
    match work {
        Work::Connections => format!("{:.0} connections/s", sample.rate()),
        Work::Upload => format!("{:.2} GB/s up", sample.rate() / 1e9),
        Work::Download => format!("{:.2} GB/s down", sample.rate() / 1e9),
    }
}

fn show(spread: &Spread, unit: f64, digits: usize) -> String {
    let [first, third] = spread.quartiles.map(|value| value / unit);
    let median = spread.median / unit;
    format!("{median:.digits$} ({first:.digits$}-{third:.digits$})")
}

impl Report {
    pub(crate) fn new(arguments: &Arguments, samples: &Samples, agent: Footprint) -> Result<Self> {
        let figures = |of: &dyn Fn(Figure, &Round) -> f64| {
            Figure::all()
                .map(|figure| {
                    let values = samples.rounds.iter().map(|round| of(figure, round));
                    (figure.key(), Spread::of(values))
                })
                .collect()
        };
        let failed = |variant| {
            let samples = samples.rounds.iter().flatten();
            samples
                .filter(|((v, _), _)| *v == variant)
                .map(|(_, sample)| sample.failed)
                .sum()
        };
        let variants = Variant::ALL.map(|variant| OfVariant {
            variant,
            failed: failed(variant),
            figures: figures(&|figure, round| figure.of(round, variant)),
        });
        // Of the same round: what else the machine did changes from round to round.
        let ratios = COMPARISONS.map(|(variant, to)| Ratio {
            variant,
            to,
            figures: figures(&|figure, round| figure.of(round, variant) / figure.of(round, to)),
        });
        Ok(Self {
            kernel: uname()?.release().to_string_lossy().into_owned(),
            processors: cpu::processors()?,
            family: arguments.family().name(),
            rounds: arguments.rounds,
            seconds: arguments.seconds,
            concurrency: arguments.concurrency,
            background: Spread::of(samples.background.iter().copied()),
            variants: variants.into(),
            ratios: ratios.into(),
            agent,
        })
    }

    /// Prints it for people.
    pub(crate) fn print(&self) {
        println!(
            "Linux {}, {} processors, {} % busy before (at most {} %), {}, {} rounds of {} s, {} connections at a time",
            self.kernel,
            self.processors,
            (self.background.median * 100.0).round(),
            (self.background.max * 100.0).round(),
            self.family,
            self.rounds,
            self.seconds,
            self.concurrency,
        );
        println!("\nMedian (first to third quartile)\n");
        let head = self.variants.iter().map(|v| v.variant.name().to_owned());
        print_table(head, |figure| {
            self.variants
                .iter()
                .map(|v| figure.show(&v.figures[&figure.key()]))
                .collect()
        });
        println!("\nRatios within a round\n");
        let head = self
            .ratios
            .iter()
            .map(|r| format!("{} / {}", r.variant.name(), r.to.name()));
        print_table(head, |figure| {
            self.ratios
                .iter()
                .map(|r| show(&r.figures[&figure.key()], 1.0, 2))
                .collect()
        });
        let agent = &self.agent;
        println!("\nThe agent\n");
        for (what, value) in [
            ("start to ready, ms", show(&agent.ready_ms, 1.0, 0)),
            (
                "start to attached (its log), ms",
                show(&agent.attached_ms, 1.0, 0),
            ),
            ("binary, MB", format!("{:.1}", agent.binary as f64 / 1e6)),
            ("memory idle, MB", show(&agent.rss_idle, 1e6, 1)),
            (
                "memory with 10,000 connections, MB",
                show(&agent.rss_tracking, 1e6, 1),
            ),
            (
                "kernel: empty map of origins, MB",
                show(&agent.map_empty, 1e6, 1),
            ),
            (
                "kernel: map, bytes per connection",
                show(&agent.map_per_connection, 1.0, 0),
            ),
            (
                "kernel: all, bytes per connection",
                show(&agent.kernel_per_connection, 1.0, 0),
            ),
        ] {
            println!("{what:36}{value}");
        }
    }
}

/// Prints a row for each figure.
fn print_table(head: impl Iterator<Item = String>, cells: impl Fn(Figure) -> Vec<String>) {
    let mut rows = vec![
        std::iter::once(String::new())
            .chain(head)
            .collect::<Vec<_>>(),
    ];
    rows.extend(Figure::all().map(|figure| {
        let name = std::iter::once(figure.name());
        name.chain(cells(figure)).collect()
    }));
    let widths: Vec<_> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
}
