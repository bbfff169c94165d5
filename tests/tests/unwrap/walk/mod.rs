//! The programs are held against the model, step by step: at random, a sender, a server, an agent and the kernel do what each of
//! them may do at any time. The same is done in the model, and after each step both must have come to the same: what the sender
//! is answered, what the application gets to read and whom it sees, what the programs remember, and what they count.

mod connection;
mod sender;
mod server;
mod stage;

use agent_common::unwrap::Refusal;
use anyhow::{Context as _, ensure};
use tests::host::scenario;
use tests::random::Random;
use tests::variables::{connections, seed, usual};

use self::connection::{ACCEPTED, Walk};
use self::stage::Stage;

/// How many connections there are by default.
const ENOUGH: u32 = 1500;

#[test]
fn programs_do_as_the_model_does() {
    scenario(|directory| {
        let random = Random::new(seed()?);
        let number = connections()?.unwrap_or_else(|| usual(ENOUGH));
        let mut stage = Stage::new(directory, number)?;
        for connection in 1..=number {
            let mut walk = Walk::new(&mut stage, &random)?;
            let outcome = walk.go(&random);
            outcome.with_context(|| format!("connection {connection}:\n{}", walk.trace()))?;
        }
        stage.tally.print();
        if number >= ENOUGH {
            let refusals = [
                Refusal::NoHeader,
                Refusal::Invalid,
                Refusal::Split,
                Refusal::Full,
                Refusal::Late,
            ];
            let refused = refusals.map(|refusal| format!("refused {}", refusal.name()));
            for what in refused.iter().map(String::as_str).chain([ACCEPTED]) {
                ensure!(stage.tally.of(what) > 0, "never {what}");
            }
        }
        stage.end()
    });
}
