//! Topologies, real proxies and servers as values that clean up after themselves.
//!
//! A scenario in `tests/*/` runs inside [`host::scenario`], which fails when anything is left on the host afterwards.
//! It lays out namespaces ([`topology`], [`cluster`]), starts servers, proxies and the agent ([`servers`], [`proxies`],
//! [`agent`]), connects to them ([`clients`]), and waits for what has to happen ([`wait`]). `tests/README.md` shows how.

pub mod addresses;
pub mod agent;
pub mod balancer;
pub mod clients;
pub mod cluster;
pub mod host;
pub mod model;
pub mod peer;
pub mod proxies;
pub mod random;
pub mod roles;
pub mod servers;
pub mod soak;
pub mod stop;
pub mod table;
pub mod topology;
pub mod variables;
pub mod wait;

#[cfg(test)]
mod tests {
    #[test]
    fn the_scenario_in_the_readme_is_one() {
        let readme = include_str!("../README.md");
        let (_, example) = readme.split_once("```rust\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        assert!(include_str!("../tests/steer/sidecar.rs").contains(example));
    }
}
