//! The ways from a client to an application.

use tests::balancer::targets;
use tests::cluster::nodes::REPORT;
use tests::topology::{Family, Gateway, Sidecar};

use crate::route::{Hop, Route};
use crate::scene::{BIND, CARRY, PLAIN, PLAIN_RANGE, PORT, Playground, RANGE_PORT, TELL, UNWRAP};

impl Playground {
    /// All ways.
    pub(crate) fn routes(&self) -> Vec<Route<'_>> {
        let sidecar = |name, plain, port| {
            Family::ALL.map(|family| Route {
                name,
                family,
                client: &self.sidecar.client,
                proxy: &self.sidecar.pod,
                hop: Hop::Proxy((Sidecar::address(family), plain).into()),
                upstream: (family.localhost(), port).into(),
                target: (Sidecar::address(family), port).into(),
                evidence: "wire",
                keeps_port: false,
            })
        };
        let gateway = Family::ALL.map(|family| Route {
            name: "gateway",
            family,
            client: &self.gateway.client,
            proxy: &self.gateway.gateway,
            hop: Hop::Proxy((Gateway::front(family), PLAIN).into()),
            upstream: (Gateway::server(family), PORT).into(),
            target: (Gateway::server(family), PORT).into(),
            evidence: "wire",
            keeps_port: true,
        });
        let bind = Family::ALL.map(|family| Route {
            name: "bind",
            family,
            client: &self.sidecar.client,
            proxy: &self.sidecar.pod,
            hop: Hop::Proxy((Sidecar::address(family), BIND).into()),
            upstream: (family.localhost(), PORT).into(),
            target: (Sidecar::address(family), BIND).into(),
            evidence: "bind",
            keeps_port: true,
        });
        let carry = Family::ALL.map(|family| Route {
            name: "TOA",
            family,
            client: &self.gateway.client,
            proxy: &self.gateway.gateway,
            hop: Hop::Proxy((Gateway::front(family), CARRY).into()),
            upstream: (Gateway::server(family), PORT).into(),
            target: (Gateway::front(family), CARRY).into(),
            evidence: "toa",
            keeps_port: true,
        });
        let relay = Family::ALL.into_iter().zip(targets());
        let relay = relay.map(|(family, target)| Route {
            name: "relay",
            family,
            client: &self.gateway.client,
            proxy: &self.gateway.gateway,
            hop: Hop::Proxy(target),
            upstream: (Gateway::server(family), PORT).into(),
            target,
            evidence: "proxy",
            keeps_port: true,
        });
        let unwrap = Family::ALL.map(|family| Route {
            name: "unwrap",
            family,
            client: &self.gateway.client,
            proxy: &self.gateway.gateway,
            hop: Hop::Proxy((Gateway::front(family), TELL).into()),
            upstream: (Gateway::server(family), UNWRAP).into(),
            target: (Gateway::front(family), TELL).into(),
            evidence: "proxy",
            keeps_port: true,
        });
        let istio = Family::ALL.map(|family| {
            let target = (Sidecar::address(family), PORT).into();
            Route {
                name: "Istio REDIRECT",
                family,
                client: &self.istio.client,
                proxy: &self.istio.pod,
                hop: Hop::Redirect,
                upstream: target,
                target,
                evidence: "bind",
                keeps_port: true,
            }
        });
        let node = &self.cluster.nodes[0];
        let node_port = node.targets(REPORT).map(|target| Route {
            name: "node port",
            family: Family::of(target),
            client: &self.cluster.client,
            proxy: &node.netns,
            hop: Hop::Nat,
            upstream: target,
            target,
            evidence: "snat",
            keeps_port: true,
        });
        let mut routes = Vec::from(unwrap);
        routes.extend(sidecar("sidecar", PLAIN, PORT));
        routes.extend(gateway);
        routes.extend(sidecar("range (sk_lookup)", PLAIN_RANGE, RANGE_PORT));
        routes.extend(bind);
        routes.extend(istio);
        routes.extend(carry);
        routes.extend(relay);
        routes.extend(node_port);
        routes
    }
}
