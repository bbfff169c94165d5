//! What the sections `[[carry.node]]` need.

use super::{
    check::{Check, Outcome},
    namespace,
};
use crate::{
    config::{CarryNode, Config},
    host::netns::Netns,
};
use agent_common::trust::Statement;

pub(super) fn check(config: &Config) -> Vec<Check> {
    let mut checks: Vec<_> = config.carry_node.iter().map(interface).collect();
    if !checks.is_empty() && !config.believes(Statement::Toa) {
        checks.push(Check::wrong(
            Outcome::Warn,
            "other nodes",
            "no [[trust]] believes anybody's TOA",
            "what other nodes forward to pods of this one has the other node's address",
            "add a [[trust]] with the nodes' addresses as `source` and `says = [\"toa\"]`, if nobody else can send from them",
        ));
    }
    checks
}

fn interface(node: &CarryNode) -> Check {
    let netns = match Netns::open_or_current(node.netns.as_deref()) {
        Ok(netns) => netns,
        Err(error) => return namespace::missing(node.netns.as_deref(), &error),
    };
    let title = node.rule();
    match namespace::selected(&node.interface, &netns) {
        Ok(names) if names.is_empty() => namespace::none(&title, &node.interface, &netns),
        Ok(names) => Check::ok(title, format!("{} in {netns}", names.join(", "))),
        Err(error) => Check::wrong(
            Outcome::Fail,
            title,
            format!("{error:#}"),
            "the agent waits for an interface that is missing, and does not start with one of another kind",
            "correct `interface` of [[carry.node]], or create the interface",
        ),
    }
}
