//! A client's connection, and whose requests it carries.

use std::{net::IpAddr, sync::Arc};

use agent_common::{Evidence, Origin, origin::rule_id, proxy::Endpoints, trust::Statement};
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
    /// The hops that are trusted to have told the client. A count of hops is about whoever connects, unless a rule is about
    /// the peer, or rules say who may speak in this way.
    pub(super) fn hops(&self) -> Hops<'_> {
        let (senders, port) = (&self.service.senders, self.beginning.ends.destination.port);
        let is_anybody = || !senders.concern(self.peer()) && !senders.believe(Statement::Xff, port);
        match self.http.trusted_hops {
            Some(count) if self.rule().is_some() || is_anybody() => Hops::Count(count),
            Some(_) => Hops::Count(0),
            None => Hops::Trusted { senders, port },
        }
    }

    /// Id of the rule that believes what the peer's requests say.
    fn rule(&self) -> Option<u32> {
        let port = self.beginning.ends.destination.port;
        let senders = &self.service.senders;
        senders.rule_for(self.peer(), Statement::Xff, port)
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
        let Some(named) = named else {
            return (connects, peer.ip());
        };
        let client = Client {
            endpoints: Endpoints {
                source: named.into(),
                ..connects.endpoints
            },
            evidence: Evidence::Xff,
            rule: self.rule().unwrap_or_else(|| rule_id(&self.service.name)),
        };
        (client, named.ip())
    }

    /// The record of a request by this client, begun at `since` nanoseconds after boot.
    pub(super) fn origin(&self, client: &Client, since: u64) -> Origin {
        client.origin(self.beginning.ends, self.beginning.netns, since)
    }
}
