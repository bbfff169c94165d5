//! The account of a soak: what became of connections, what changed meanwhile, and what was not promised.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::judge::{Attempt, Excuse, History};
use super::promise::Change;
use super::tally::{HEAD, Tally};
use super::way::Way;
use crate::table;

#[derive(Default)]
struct State {
    tallies: BTreeMap<(Way, &'static str), Tally>,
    history: History,
    /// How often each event has happened.
    events: BTreeMap<&'static str, u32>,
    /// What became of connections that were not right, by what promises that, and how often.
    excused: BTreeMap<Excuse, u64>,
    /// What was not promised.
    broken: Vec<String>,
}

/// How much of what was not promised is told.
const SHOWN: usize = 5;

/// The account of a soak.
pub(super) struct Ledger {
    start: Instant,
    is_over: AtomicBool,
    state: Mutex<State>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            is_over: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// How long the soak has run.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Nobody is to connect any more.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Begins a change, which lasts until the value is dropped.
    pub(super) fn begin(&self, change: Change, what: impl Into<String>) -> Changing<'_> {
        let index = self.state().history.begin(change, what.into());
        Changing {
            ledger: self,
            index,
        }
    }

    /// Begins several changes.
    pub(super) fn begin_all(&self, changes: Vec<Change>, what: &str) -> Vec<Changing<'_>> {
        let begin = |change| self.begin(change, what);
        changes.into_iter().map(begin).collect()
    }

    /// Counts an event.
    pub(super) fn happened(&self, event: &'static str) {
        *self.state().events.entry(event).or_default() += 1;
    }

    /// Adds a connection that has ended, and judges it.
    pub(super) fn add(&self, attempt: &Attempt) {
        let now = Instant::now();
        let state = &mut *self.state();
        match state.history.judge(attempt, now) {
            Ok(excuses) => {
                for excuse in excuses {
                    *state.excused.entry(excuse).or_default() += 1;
                }
            }
            Err(text) => state.broken.push(text),
        }
        let key = (attempt.way, attempt.family.name());
        state.tallies.entry(key).or_default().add(attempt);
    }

    /// How many connections were right, for each way and family that has any.
    pub(super) fn right(&self) -> BTreeMap<(Way, &'static str), u64> {
        let state = self.state();
        let right = state.tallies.iter().map(|(key, tally)| (*key, tally.right));
        right.collect()
    }

    /// Fails if something was not promised.
    pub(super) fn check(&self) -> Result<()> {
        let broken = &self.state().broken;
        let first = broken.iter().take(SHOWN).map(String::as_str);
        ensure!(
            broken.is_empty(),
            "not as promised, {} times; the first of them:\n{}",
            broken.len(),
            first.collect::<Vec<_>>().join("\n")
        );
        Ok(())
    }

    /// Notes that an application was given another byte than was sent.
    pub(super) fn differs(&self, way: Way, why: &std::io::Error) {
        let text = format!("{}: the application found that {why}", way.name());
        self.state().broken.push(text);
    }

    /// Prints the account so far.
    pub(super) fn print(&self) {
        let state = self.state();
        let mut rows = vec![HEAD.map(String::from).to_vec()];
        let mut all = Tally::default();
        for ((way, family), tally) in &state.tallies {
            rows.push(tally.row(way.name(), family));
            all.merge(tally);
        }
        rows.push(all.row("all", ""));
        let events: Vec<_> = state
            .events
            .iter()
            .map(|(event, times)| format!("{times} {event}"))
            .collect();
        let minutes = self.elapsed().as_secs_f64() / 60.0;
        println!("\nafter {minutes:.1} minutes:");
        table::print(&rows);
        let mut causes = BTreeMap::<_, Vec<_>>::new();
        for ((change, what), times) in &state.excused {
            let text = format!("{times} {what}");
            causes.entry(change.name()).or_default().push(text);
        }
        for (change, what) in causes {
            println!("{change}: {}", what.join(", "));
        }
        println!("not as promised: {}", state.broken.len());
        println!("events: {}\n", events.join(", "));
    }
}

/// A change that goes on.
pub(super) struct Changing<'a> {
    ledger: &'a Ledger,
    index: usize,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.ledger.state().history.end(self.index);
    }
}
