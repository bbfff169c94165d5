//! Relays for HTTP.

use tests::agent::Relay;

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
