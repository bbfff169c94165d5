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
pub use self::server::{Connected, Known, Listening, Reaction, Server};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use stateright::{Checker as _, Expectation, Model as _};

    use super::world::{Kind, Limits};

    /// Tries all that can happen within these limits. Returns which examples there are of what is to happen sometimes.
    fn check(
        sends: u8,
        faults: u8,
        kinds: &'static [Kind],
        isns: &'static [u32],
    ) -> BTreeSet<&'static str> {
        let limits = Limits {
            sends,
            faults,
            kinds,
            isns,
        };
        let checker = limits.clone().checker().threads(2).spawn_bfs().join();
        println!("{} states: {limits:?}", checker.unique_state_count());
        for property in limits.properties() {
            if property.expectation == Expectation::Always {
                checker.assert_no_discovery(property.name);
            }
        }
        checker.discoveries().into_keys().collect()
    }

    #[test]
    fn one_connection() {
        let mut examples = check(2, 1, &[Kind::Network, Kind::Server], &[100]);
        examples.extend(check(2, 2, &[Kind::Network, Kind::Maps], &[100]));
        examples.extend(check(2, 1, &[Kind::Server, Kind::Agent], &[100]));
        // What is never tried shows nothing.
        assert_eq!(examples.len(), Limits::EXAMPLES, "{examples:?}");
    }

    #[test]
    fn a_port_that_is_used_again() {
        // The later SYN lies within the window of the first.
        check(1, 1, &[Kind::Server], &[100, 140]);
        check(1, 1, &[Kind::Maps], &[100, 140]);
        check(1, 1, &[Kind::Maps], &[100, 1 << 20]);
    }

    /// More of everything: `cargo test --release -p tests --lib model -- --ignored`.
    #[test]
    #[ignore = "takes minutes"]
    fn at_length() {
        const PAIRS: [&[Kind]; 4] = [
            &[Kind::Network, Kind::Server],
            &[Kind::Network, Kind::Maps],
            &[Kind::Server, Kind::Agent],
            &[Kind::Maps, Kind::Agent],
        ];
        for kinds in PAIRS {
            check(2, 2, kinds, &[100]);
            // What an agent does at any time makes many more states.
            let sends = if kinds.contains(&Kind::Agent) { 1 } else { 2 };
            check(sends, 1, kinds, &[100, 140]);
            check(sends, 1, kinds, &[100, 1 << 20]);
        }
    }
}
