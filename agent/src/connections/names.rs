//! Names for the ids of rules in the data path's records.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use agent_common::origin::rule_id;
use anyhow::{Result, bail};

use crate::config::{Config, Policy, Relay, Steer, Trust};

/// Names of the rules by which somebody vouches for a client, by the ids in the records. Clones share them, so that a
/// reload reaches every reader.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<RwLock<HashMap<u32, String>>>);

impl Names {
    /// The names of this configuration's rules.
    pub fn new(config: &Config) -> Self {
        let names = Self::default();
        names.set(config);
        names
    }

    /// Replaces all names by those of this configuration's rules.
    pub fn set(&self, config: &Config) {
        let steers = config.steer.iter();
        let steers = steers.map(|s| (rule_id(&s.name), format!("steer {}", s.name)));
        let trust = config.trust.iter().flat_map(Trust::rules);
        let trust = trust.map(|rule| (rule.id, rule.name));
        let relays = config.relay.iter().map(Relay::name);
        let relays = relays.map(|name| (rule_id(&name), name));
        let policies = config.policy.iter();
        let policies = policies.map(|policy| (rule_id(&policy.rule()), policy.rule()));
        let nodes = config.carry_node.iter();
        let nodes = nodes.map(|node| (rule_id(&node.rule()), node.rule()));
        let all = steers
            .chain(trust)
            .chain(nodes)
            .chain(relays)
            .chain(policies);
        *self.0.write().expect("no writer panics") = all.collect();
    }

    /// Adds the names of steers that pods ask for.
    ///
    /// # Errors
    ///
    /// When a name has the same id in the records as another one, so that their origins could not be told apart.
    pub fn add(&self, steers: &[Steer]) -> Result<()> {
        let mut names = self.0.write().expect("no writer panics");
        for steer in steers {
            let name = format!("steer {}", steer.name);
            let known = names.entry(rule_id(&steer.name)).or_insert(name.clone());
            if *known != name {
                bail!("{known} and {name} have the same number in the records: rename the steer");
            }
        }
        Ok(())
    }

    /// The name of the policy with this rule.
    pub fn policy(&self, rule: u32) -> Option<String> {
        let names = self.0.read().expect("no writer panics");
        let name = names.get(&rule)?.strip_prefix(Policy::PREFIX)?;
        Some(name.into())
    }

    /// Who vouches for an origin with this rule.
    pub fn trusted_by(&self, rule: u32) -> String {
        let names = self.0.read().expect("no writer panics");
        let name = names.get(&rule).map(String::as_str);
        name.unwrap_or("a rule that is no longer configured").into()
    }
}
