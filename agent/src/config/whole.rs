//! The whole configuration: all sections that have been read.

use agent_common::{
    toa::{Kinds, LEN_V4, LEN_V6},
    trust::Statement,
};

use super::{
    agent::AgentSettings,
    carry::{CarryNode, CarryToa},
    policy::Policy,
    relay::Relay,
    reveal::Reveal,
    steer::Steer,
    toa::Toa,
    trust::Trust,
    unwrap::Unwrap,
};

/// The whole configuration of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The agent itself.
    pub agent: AgentSettings,
    /// Who may speak for a client, in the order of the file.
    pub trust: Vec<Trust>,
    /// The TCP option by which a client is told.
    pub toa: Toa,
    /// Which processes are told the client.
    pub reveal: Reveal,
    /// Which connections are steered to local proxies, in the order of the file.
    pub steer: Vec<Steer>,
    /// Where the data path takes PROXY headers off, in the order of the file.
    pub unwrap: Vec<Unwrap>,
    /// To which destinations TOA is sent.
    pub carry_toa: CarryToa,
    /// Where the data path adds TOA to SYNs before the node's own NAT, in the order of the file.
    pub carry_node: Vec<CarryNode>,
    /// The agent's own relays, in the order of the file.
    pub relay: Vec<Relay>,
    /// Which clients may connect, in the order of the file.
    pub policy: Vec<Policy>,
}

impl Config {
    /// How many sections there are of each kind that there can be many of.
    pub fn sections(&self) -> String {
        let counts = [
            ("[[trust]]", self.trust.len()),
            ("[[steer]]", self.steer.len()),
            ("[[unwrap]]", self.unwrap.len()),
            ("[[carry.node]]", self.carry_node.len()),
            ("[[relay]]", self.relay.len()),
            ("[[policy]]", self.policy.len()),
        ];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let counts: Vec<_> = counts
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        match counts.is_empty() {
            true => "no section".into(),
            false => counts.join(", "),
        }
    }

    /// The TCP options that are read as TOA: none while nobody could be believed, and always those that this node
    /// writes itself.
    pub fn kinds(&self) -> Kinds {
        match (self.believes(Statement::Toa), &self.carry_node[..]) {
            (false, []) => Kinds::NONE,
            (true, []) => self.toa.kinds,
            _ => {
                let kind = self.carry_toa.kind;
                self.toa.kinds.with(kind, LEN_V4).with(kind, LEN_V6)
            }
        }
    }

    /// Whether this statement is believed of anybody.
    pub fn believes(&self, statement: Statement) -> bool {
        self.trust.iter().any(|rule| rule.believes(statement))
    }

    /// Whether any local proxy is believed.
    pub fn believes_proxies(&self) -> bool {
        self.trust.iter().any(Trust::believes_proxies)
    }

    /// Whether it is to be watched what relays connect to, as applications may not be able to express their clients.
    pub fn watches_relays(&self) -> bool {
        self.reveal.refuses() && self.relay.iter().any(Relay::speaks)
    }
}
