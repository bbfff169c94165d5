//! What the agent waits for, and what it had to put back because somebody took it away.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::{Deserialize, Serialize};

/// How many different things are remembered that were put back.
const REMEMBERED: usize = 32;

/// How the agent gets on with the rest of the host. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Upkeep {
    /// Things that the configuration names and the host does not have.
    waiting: Arc<Mutex<Vec<String>>>,
    put_back: Arc<Mutex<Vec<PutBack>>>,
    missing: Gauge,
    counters: Family<Label, Counter>,
}

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own words")]
pub enum Kind {
    Rule,
    Route,
    Sysctl,
    Link,
    Filter,
}

impl Kind {
    /// All of them.
    const ALL: [Self; 5] = [
        Self::Rule,
        Self::Route,
        Self::Sysctl,
        Self::Link,
        Self::Filter,
    ];

    /// The metric's label.
    fn label(self) -> Label {
        let word = match self {
            Self::Rule => "rule",
            Self::Route => "route",
            Self::Sysctl => "sysctl",
            Self::Link => "link",
            Self::Filter => "filter",
        };
        [("kind", word)]
    }
}

type Label = [(&'static str, &'static str); 1];

/// Something that was put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBack {
    /// What it is.
    pub what: String,
    /// How many times.
    pub times: u64,
    /// When it was the last time (RFC 3339).
    pub last: String,
}

impl Upkeep {
    /// Has a registry show how many things are waited for, and how many were put back.
    pub(super) fn register(&self, registry: &mut Registry) {
        // A counter that is there before it counts shows the first loss as an increase.
        for kind in Kind::ALL {
            drop(self.counters.get_or_create(&kind.label()));
        }
        registry.register(
            "waiting",
            "Things that the configuration names and the host does not have yet",
            self.missing.clone(),
        );
        registry.register(
            "put_back",
            "Rules, routes, sysctls and programs of the agent that somebody had removed or changed",
            self.counters.clone(),
        );
    }

    /// Notes all that is waited for.
    pub fn wait_for(&self, things: Vec<String>) {
        self.missing.set(things.len() as i64);
        *locked(&self.waiting) = things;
    }

    /// What is waited for.
    pub fn waiting(&self) -> Vec<String> {
        locked(&self.waiting).clone()
    }

    /// Counts something that is put back.
    pub fn note_put_back(&self, kind: Kind, what: &str) {
        self.counters.get_or_create(&kind.label()).inc();
        let last = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut all = locked(&self.put_back);
        let before = all.iter().position(|known| known.what == what);
        let times = 1 + before.map_or(0, |at| all.remove(at).times);
        all.insert(
            0,
            PutBack {
                what: what.to_owned(),
                times,
                last,
            },
        );
        all.truncate(REMEMBERED);
    }

    /// What was put back, the latest first.
    pub fn put_back(&self) -> Vec<PutBack> {
        locked(&self.put_back).clone()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_loss_comes_first_and_each_is_counted() {
        let upkeep = Upkeep::default();
        for what in ["a rule", "a route", "a rule"] {
            upkeep.note_put_back(Kind::Rule, what);
        }
        let known: Vec<_> = upkeep.put_back().into_iter().collect();
        let known: Vec<_> = known.iter().map(|p| (p.what.as_str(), p.times)).collect();
        assert_eq!(known, [("a rule", 2), ("a route", 1)]);
        for n in 0..100 {
            upkeep.note_put_back(Kind::Link, &n.to_string());
        }
        assert_eq!(upkeep.put_back().len(), REMEMBERED);
    }
}
