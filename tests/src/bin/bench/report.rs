//! The figures, for people and for machines.
//!
//! The JSON file holds one [`Report`]. Every figure of several rounds is a [`Spread`]:
//! `{"median", "quartiles": [first, third], "min", "max", "values"}`, the values in the order of the
//! rounds.
//!
//! ```json
//! {
//!   "kernel": "6.18.0", "processors": 2, "family": "IPv4",
//!   "rounds": 8, "seconds": 0.5, "concurrency": 32,
//!   "background": Spread,
//!   "comparisons": [{
//!     "comparison": "accept",
//!     "variants": [{"variant": "bind", "connections": 9000, "failed": 0, "wrong": 0, "unknown": 0,
//!                   "figures": {"connections_per_second": Spread}}],
//!     "pairs": [{"variant": "bind", "to": "direct", "figures": {"connections_per_second": Spread}}],
//!     "goals": [{"goal": "…", "is": 0.98, "met": true}]
//!   }],
//!   "agent": Footprint,
//!   "cni": Cni
//! }
//! ```
//!
//! `background` is the share of the machine that was busy before each measurement. Figures of a pair are
//! ratios, and of `getpeername()`, SYNs and memory differences, within a round. `agent` is null with `--only`, `cni`
//! with `--only` others.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use nix::sys::utsname::uname;
use serde::Serialize;
use tests::table;

use crate::arguments::Arguments;
use crate::cni::Cni;
use crate::comparison::{Bound, Comparison, Goal};
use crate::cpu;
use crate::figure::{Compared, Figure, of_work};
use crate::footprint::Footprint;
use crate::load::Sample;
use crate::stats::Spread;
use crate::variant::Variant;
use crate::work::Work;

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
    comparisons: Vec<Compares>,
    agent: Option<Footprint>,
    cni: Option<Cni>,
}

type Figures = BTreeMap<&'static str, Spread>;

/// What one comparison found.
#[derive(Serialize)]
struct Compares {
    #[serde(rename = "comparison")]
    name: &'static str,
    #[serde(skip)]
    of: &'static Comparison,
    variants: Vec<OfVariant>,
    pairs: Vec<OfPair>,
    goals: Vec<OfGoal>,
}

#[derive(Serialize)]
struct OfVariant {
    variant: Variant,
    /// Connections that were answered.
    connections: u64,
    failed: u64,
    wrong: u64,
    unknown: u64,
    figures: Figures,
}

#[derive(Serialize)]
struct OfPair {
    variant: Variant,
    to: Variant,
    figures: Figures,
}

#[derive(Serialize)]
struct OfGoal {
    goal: String,
    /// The median.
    is: f64,
    met: bool,
}

/// What one measurement found, for people.
pub(crate) fn progress(work: Work, sample: &Sample) -> String {
    match work {
        Work::Idle => format!("{:.0} bytes a connection", sample.idle.processes),
        Work::Connections => format!("{:.0} connections/s", sample.rate()),
        Work::Upload => format!("{:.2} GB/s up", sample.rate() / 1e9),
        Work::Download => format!("{:.2} GB/s down", sample.rate() / 1e9),
        Work::Crowd => format!("{:.2} GB/s up by 100", sample.rate() / 1e9),
        Work::Paced => format!("{} us to the answer (p99)", sample.p99.as_micros()),
        Work::Syns => format!("{} ns a SYN", sample.syn.as_nanos()),
        Work::Getpeername => format!("{:.1} million calls/s", sample.rate() / 1e6),
    }
}

impl Comparison {
    fn figures(&self) -> impl Iterator<Item = &'static Figure> {
        self.works.iter().flat_map(|work| of_work(*work))
    }
}

impl Goal {
    fn name(&self) -> String {
        let (variant, to) = (self.pair.0.name(), self.pair.1.name());
        let (bound, by) = match self.bound {
            Bound::AtLeast(bound) => (bound, "at least"),
            Bound::Below(bound) => (bound, "below"),
        };
        let figure = self.figure.name;
        match self.figure.compared {
            Compared::Ratio => format!("{variant} / {to}, {figure}: {by} {bound}"),
            Compared::Difference => format!("{variant} - {to}, {figure}: {by} {bound}"),
        }
    }
}

impl Compares {
    fn new(of: &'static Comparison, rounds: &[Round]) -> Self {
        let value =
            |figure: &Figure, round: &Round, variant| (figure.of)(&round[&(variant, figure.work)]);
        let variant = |variant| {
            let sum = |of: fn(&Sample) -> u64| {
                let samples = rounds
                    .iter()
                    .filter_map(|r| r.get(&(variant, Work::Connections)));
                samples.map(of).sum()
            };
            let spread = |figure: &Figure| {
                Spread::of(rounds.iter().map(|round| value(figure, round, variant)))
            };
            OfVariant {
                variant,
                connections: sum(|sample| sample.amount),
                failed: sum(|sample| sample.failed),
                wrong: sum(|sample| sample.wrong),
                unknown: sum(|sample| sample.unknown),
                figures: of.figures().map(|f| (f.key, spread(f))).collect(),
            }
        };
        // Of the same round: what else the machine did changes from round to round.
        let compare = |figure: &Figure, (variant, to)| {
            Spread::of(rounds.iter().map(|round| {
                figure.compare(value(figure, round, variant), value(figure, round, to))
            }))
        };
        let pair = |pair: &(Variant, Variant)| OfPair {
            variant: pair.0,
            to: pair.1,
            figures: of.figures().map(|f| (f.key, compare(f, *pair))).collect(),
        };
        let goal = |goal: &Goal| {
            let is = compare(&goal.figure, goal.pair).median;
            OfGoal {
                goal: goal.name(),
                is,
                met: goal.bound.holds(is),
            }
        };
        Self {
            name: of.name,
            of,
            variants: of.variants.iter().copied().map(variant).collect(),
            pairs: of.pairs.iter().map(pair).collect(),
            goals: of.goals.iter().map(goal).collect(),
        }
    }

    fn print(&self) {
        println!("\n{}: {}\n", self.name, self.of.title);
        let names = self.variants.iter().map(|v| v.variant.name().to_owned());
        let mut rows = vec![table::row("", names)];
        for figure in self.of.figures() {
            let spreads = self.variants.iter().map(|v| &v.figures[figure.key]);
            rows.push(table::row(
                figure.name,
                spreads.map(|spread| spread.show(1.0, figure.digits)),
            ));
        }
        if self.of.works.contains(&Work::Connections) {
            let counts =
                |of: fn(&OfVariant) -> u64| self.variants.iter().map(move |v| of(v).to_string());
            rows.push(table::row("connections", counts(|v| v.connections)));
            rows.push(table::row("failed", counts(|v| v.failed)));
            rows.push(table::row("wrong answers", counts(|v| v.wrong)));
            rows.push(table::row("unknown answers", counts(|v| v.unknown)));
        }
        table::print(&rows);
        println!();
        let names = self
            .pairs
            .iter()
            .map(|pair| format!("{} : {}", pair.variant.name(), pair.to.name()));
        let mut rows = vec![table::row("within a round", names)];
        for figure in self.of.figures() {
            let spreads = self.pairs.iter().map(|pair| &pair.figures[figure.key]);
            rows.push(table::row(
                figure.name,
                spreads.map(|spread| spread.show(1.0, figure.compared_digits())),
            ));
        }
        table::print(&rows);
        if !self.goals.is_empty() {
            println!();
        }
        for goal in &self.goals {
            let met = if goal.met { "met" } else { "not met" };
            println!("goal: {}: {:.2}, {met}", goal.goal, goal.is);
        }
    }
}

impl Report {
    pub(crate) fn new(
        arguments: &Arguments,
        samples: &Samples,
        agent: Option<Footprint>,
        cni: Option<Cni>,
    ) -> Result<Self> {
        Ok(Self {
            kernel: uname()?.release().to_string_lossy().into_owned(),
            processors: cpu::processors()?,
            family: arguments.family().name(),
            rounds: arguments.rounds,
            seconds: arguments.seconds,
            concurrency: arguments.concurrency,
            background: Spread::of(samples.background.iter().copied()),
            comparisons: arguments
                .comparisons()
                .into_iter()
                .map(|comparison| Compares::new(comparison, &samples.rounds))
                .collect(),
            agent,
            cni,
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
        println!(
            "Median (first to third quartile); pairs as ratios, getpeername(), SYNs and memory as differences"
        );
        for comparison in &self.comparisons {
            comparison.print();
        }
        if let Some(agent) = &self.agent {
            agent.print();
        }
        if let Some(cni) = &self.cni {
            cni.print();
        }
    }

    /// Fails if an application was told another than its client.
    pub(crate) fn check(&self) -> Result<()> {
        for variant in self.comparisons.iter().flat_map(|c| &c.variants) {
            ensure!(
                variant.wrong + variant.unknown == 0,
                "{}: {} wrong and {} unknown answers",
                variant.variant.name(),
                variant.wrong,
                variant.unknown
            );
        }
        Ok(())
    }
}
