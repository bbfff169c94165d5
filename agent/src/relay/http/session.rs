//! A client's connection, and whose requests it carries.

use std::{net::IpAddr, sync::Arc};

use agent_common::{Endpoint, Evidence, Origin, origin::rule_id, proxy::Endpoints};
use hyper::HeaderMap;

use super::{headers, hops::Hops, timeouts::Timeouts};
use crate::{
    config::Http,
    relay::{begin::Beginning, client::Client, service::Service},
};

/// A client's connection: what all its requests share.
pub(super) struct Session {
    pub(super) service: Arc<Service>,
    pub(super) http: Http,
    pub(super) beginning: Beginning,
    pub(super) timeouts: Arc<Timeouts>,
}

impl Session {
    /// The hops that are trusted to have told the client.
    pub(super) fn hops(&self) -> Hops<'_> {
        match self.http.trusted_hops {
            Some(count) => Hops::Count(count),
            None => Hops::Prefixes(&self.service.sources),
        }
    }

    /// The address of the peer: who sends the requests, as far as the connection's beginning tells.
    pub(super) fn peer(&self) -> IpAddr {
        self.beginning.client.endpoints.source.socket_addr().ip()
    }

    /// Whose request has these headers, which must be as they came in; and the address to pass on. They
    /// differ for an IPv4-mapped address, which Envoy passes on as it is.
    pub(super) fn client(&self, headers: &HeaderMap) -> (Client, IpAddr) {
        let connects = self.beginning.client;
        let peer = connects.endpoints.source.socket_addr();
        let named = self
            .hops()
            .client(&headers::forwarded_for(headers), peer.ip());
        let Some(address) = named else {
            return (connects, peer.ip());
        };
        let by_prefix = self.service.trusting_rule(peer);
        let by_prefix = by_prefix.filter(|_| self.http.trusted_hops.is_none());
        let client = Client {
            endpoints: Endpoints {
                // The header tells no port.
                source: Endpoint::new(address.into(), 0),
                ..connects.endpoints
            },
            evidence: Evidence::Xff,
            rule: rule_id(&by_prefix.unwrap_or_else(|| self.service.name.clone())),
        };
        (client, address)
    }

    /// The record of a request by this client, begun at `since` nanoseconds after boot.
    pub(super) fn origin(&self, client: &Client, since: u64) -> Origin {
        client.origin(self.beginning.ends, self.beginning.netns, since)
    }
}
