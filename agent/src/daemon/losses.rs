//! What somebody takes away from under the agent is told, counted and put back, but not for ever at full speed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{
    datapath::Missing,
    observe::{
        rate::Rate,
        upkeep::{Kind, Upkeep},
    },
    route::Item,
};

/// How many times the same thing is put back at once. Whoever takes it away more often than that fights with the agent, and
/// neither is to burn a processor or fill a log.
const BURST: u32 = 10;
/// How often it is put back then.
const INTERVAL: Duration = Duration::from_secs(10);
/// How many things are remembered before all are forgotten.
const REMEMBERED: usize = 1024;

/// Something of the agent's that is not in place although it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) kind: Kind,
    pub(super) what: String,
}

impl From<Missing> for Loss {
    fn from(program: Missing) -> Self {
        let (kind, word) = match program.is_filter {
            true => (Kind::Filter, "filter"),
            false => (Kind::Link, "link"),
        };
        let what = format!("{word} of {}", program.what);
        Self { kind, what }
    }
}

impl From<&Item> for Loss {
    fn from(item: &Item) -> Self {
        let kind = match item {
            Item::Rule { .. } => Kind::Rule,
            Item::Route { .. } => Kind::Route,
            Item::Sysctl { .. } => Kind::Sysctl,
        };
        let what = item.to_string();
        Self { kind, what }
    }
}

/// How often each thing was lost.
pub(super) struct Losses {
    upkeep: Upkeep,
    rates: HashMap<String, Rate>,
}

impl Losses {
    pub(super) fn new(upkeep: Upkeep) -> Self {
        let rates = HashMap::new();
        Self { upkeep, rates }
    }

    /// Whether what is lost may be put back now; then it is told.
    pub(super) fn may_put_back(&mut self, lost: &[Loss], now: Instant) -> bool {
        if self.rates.len() > REMEMBERED {
            self.rates.clear();
        }
        let rates = &mut self.rates;
        let mut may = lost.is_empty();
        for loss in lost {
            let rate = rates.entry(loss.what.clone());
            let rate = rate.or_insert_with(|| Rate::new(BURST, INTERVAL, now));
            may |= rate.allows(now);
        }
        if may {
            for Loss { what, .. } in lost {
                warn!("somebody has removed or changed the {what}: it is put back");
            }
        }
        may
    }

    /// Counts what has been put back.
    pub(super) fn count(&self, lost: &[Loss]) {
        for Loss { kind, what } in lost {
            self.upkeep.note_put_back(*kind, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fight_does_not_burn_a_processor() {
        let upkeep = Upkeep::default();
        let mut losses = Losses::new(upkeep.clone());
        let start = Instant::now();
        let of = |what: &str| Loss {
            kind: Kind::Rule,
            what: what.into(),
        };
        let rule = [of("rule")];
        let times = |losses: &mut Losses, now| {
            let tries = (0..1000).filter(|_| losses.may_put_back(&rule, now));
            tries.count()
        };
        assert_eq!(times(&mut losses, start), BURST as usize);
        assert_eq!(times(&mut losses, start + INTERVAL), 1);
        assert!(losses.may_put_back(&[], start));
        // What is lost for the first time does not wait for what is fought for.
        let both = [of("rule"), of("route")];
        assert!(losses.may_put_back(&both, start));
        losses.count(&both);
        assert_eq!(upkeep.put_back().len(), 2);
    }
}
