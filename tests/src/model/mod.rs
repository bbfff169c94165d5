//! A model of unwrap: the programs between a sender and a server, as a state machine in plain Rust.
//!
//! [`Path`] asks the same functions as the programs (`agent_common::unwrap::stream`). A model checker tries everything that
//! can happen between a sender, a network and a [`Server`], and a scenario holds the programs against the two.

mod packet;
mod path;
#[cfg(test)]
mod sender;
mod server;
#[cfg(test)]
mod world;

pub use self::packet::Packet;
pub use self::path::{Path, Port};
pub use self::server::{Known, Listening, Server};

#[cfg(test)]
mod tests {
    use stateright::{Checker as _, Model as _};

    use super::world::{Kind, Limits};

    fn check(limits: Limits) {
        let now = std::time::Instant::now();
        let checker = limits.checker().threads(2).timeout(std::time::Duration::from_secs(12)).spawn_bfs().join();
        println!("{limits:?}: {} states, depth {}, {:?}, done {}", checker.unique_state_count(), checker.max_depth(), now.elapsed(), checker.is_done());
        for (name, path) in checker.discoveries() {
            println!("{name}: {:?}", path.clone().into_actions());
            if !name.starts_with("t") { for s in path.into_states() { println!("   {s:?}"); } }
        }
    }

    #[test]
    fn one() {
        for kinds in ALL { for faults in 1..3 {
            check(Limits { sends: 2, faults, kinds, isns: &[100] });
        }}
    }
    #[test]
    fn two() {
        for isns in [&[100, 140], &[100, 1 << 20]] {
            for kinds in SINGLE {
            check(Limits {
                sends: 3,
                faults: 1,
                kinds,
                isns,
            });
            }
        }
    }
    const ALL: [&[Kind]; 4] = [
        &[Kind::Network, Kind::Server],
        &[Kind::Network, Kind::Maps],
        &[Kind::Server, Kind::Agent],
        &[Kind::Maps, Kind::Agent],
    ];
    const SINGLE: [&[Kind]; 4] = [
        &[Kind::Network], &[Kind::Maps], &[Kind::Agent], &[Kind::Server]
    ];
}
