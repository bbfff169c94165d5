//! Relays for HTTP, and agents that run them.

use anyhow::Result;
use tests::agent::{Agent, Config, Relay};
use tests::topology::balancer::SOURCES;

/// Makes these relays ones for HTTP.
pub(crate) fn for_http(mut relays: Vec<Relay>, trusted_hops: Option<u32>) -> Vec<Relay> {
    for relay in &mut relays {
        relay.accept = "plain";
        relay.protocol = Some("http");
        relay.trusted_hops = trusted_hops;
        relay.add_headers = Some(vec!["X-Envoy-External-Address", "Forwarded"]);
    }
    relays
}

/// An agent with these relays, which trusts these prefixes besides the gateway's.
pub(crate) fn agent(
    directory: &std::path::Path,
    more: &[&str],
    relays: Vec<Relay>,
) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    let sources = SOURCES.iter().chain(more);
    config.trust.sources = sources.map(|prefix| (*prefix).into()).collect();
    config.relay = relays;
    Agent::start(directory, config)
}
