//! A soak: connections by every way at once, each byte compared and each client asked for, while a scheduler kills, restarts,
//! replaces and reloads the agent, takes things away from under it, fills its maps, and loses and delays packets.
//!
//! Nobody may ever be told a wrong client or given a wrong byte. When a client may be unknown, and when a connection may fail,
//! is written down in [`promise::may`], and nowhere else.

mod client;
mod crowd;
mod event;
mod judge;
mod ledger;
mod promise;
mod scheduler;
mod stage;
mod subject;
mod tally;
mod way;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use self::client::Client;
use self::ledger::Ledger;
use self::scheduler::Scheduler;
use self::stage::Stage;
use self::subject::Subject;
use self::way::Way;
use crate::addresses::Family;
use crate::random::Random;
use crate::stop::Stop;
use crate::variables::{seed, soak};

/// How long a soak takes if nobody wants another time.
const TIME: Duration = Duration::from_secs(120);

/// Runs a soak; `program` is this crate's.
///
/// # Errors
///
/// When something was not as promised, with what had changed meanwhile; or when it is interrupted.
pub fn run(directory: &Path, program: &Path) -> Result<()> {
    let stop = Stop::on_signals()?;
    let time = soak()?.unwrap_or(TIME);
    let seed = seed()?;
    let ledger = Arc::new(Ledger::new());
    let stage = Stage::new(directory, program, &ledger)?;
    let service = stage.service()?;
    let config = stage.config(&service.cgroup())?;
    let mut scheduler = Scheduler {
        stage: &stage,
        ledger: &ledger,
        stop,
        random: Random::new(seed),
        subject: Subject::new(directory.into(), config)?,
        service: Some(service),
        directory,
    };
    let outcome = std::thread::scope(|scope| {
        let mut number = 0;
        for way in Way::ALL {
            for (family, lasts) in Family::ALL
                .into_iter()
                .flat_map(|f| [(f, false), (f, true)])
            {
                number += 1;
                let client = Client {
                    stage: &stage,
                    ledger: &ledger,
                    way,
                    family,
                    lasts,
                };
                let seed = seed.wrapping_add(number << 32);
                scope.spawn(move || client.run(seed));
            }
        }
        let outcome = scheduler.run(time);
        ledger.end();
        outcome
    });
    ledger.print();
    // What was not promised tells more than what followed from it.
    ledger.check()?;
    outcome?;
    scheduler.subject.end()
}
