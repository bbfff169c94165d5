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

    use super::world::Limits;

    fn check(limits: Limits) {
        let checker = limits.checker().threads(2).spawn_bfs().join();
        println!("{} states", checker.unique_state_count());
        checker.assert_properties();
    }

    #[test]
    fn one_connection() {
        check(Limits {
            sends: 3,
            faults: 2,
            isns: [100, 0],
        });
    }

    #[test]
    fn the_port_is_used_again() {
        for isn in [120, 1 << 20] {
            check(Limits {
                sends: 4,
                faults: 1,
                isns: [100, isn],
            });
        }
    }
}
