//! `truepeer run --partial`: what of the configuration the kernel's verifier refuses is left out, and the rest works.

use std::collections::BTreeMap;

use agent_common::toa::Kinds;
use anyhow::Result;
use tracing::warn;

use crate::{
    config::{Config, Inexpressible},
    datapath::{self, Section},
};

/// The sections that this kernel cannot serve, each with its reason.
pub struct Partial(BTreeMap<Section, String>);

impl Partial {
    /// Tries every program.
    ///
    /// # Errors
    ///
    /// When the kernel refuses what the agent cannot do without.
    pub fn find() -> Result<Self> {
        let mut refused = BTreeMap::new();
        for (purpose, loaded) in datapath::try_all()? {
            match (purpose.section, loaded) {
                (_, Ok(_)) => {}
                (Some(section), Err(error)) => {
                    refused
                        .entry(section)
                        .or_insert_with(|| format!("{error:#}"));
                }
                (None, Err(error)) => return Err(error),
            }
        }
        Ok(Self(refused))
    }

    /// Leaves these sections out of a configuration, and says so in the log.
    pub fn reduce(&self, config: &mut Config) {
        for (section, reason) in &self.0 {
            let whole = config.clone();
            match section {
                Section::Steer => {
                    config.steer.clear();
                    config.relay.retain(|relay| relay.route().is_none());
                }
                Section::Unwrap => config.unwrap.clear(),
                Section::CarryNode => config.carry_node.clear(),
                Section::Policy => config.policy.clear(),
                Section::Bind => {
                    config.trust.retain(|rule| !rule.believes_proxies());
                    config.reveal.inexpressible = Inexpressible::Pass;
                }
                Section::Toa => {
                    config.toa.kinds = Kinds::NONE;
                    config.carry_node.clear();
                }
                Section::Reveal => config.reveal.enabled = false,
            }
            if *config != whole {
                warn!("{section} is left out: {reason}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_left_out_and_the_rest_stays() {
        let text = r#"
            [[trust]]
            source = ["10.0.0.0/8"]
            says = ["proxy"]
            [[unwrap]]
            interface = "eth0"
            ports = ["8000"]
            [[policy]]
            ports = ["80"]
            deny = ["192.0.2.0/24"]
        "#;
        let whole = Config::parse(text, "test").unwrap();
        let mut reduced = whole.clone();
        let partial = Partial([(Section::Unwrap, "refused".into())].into());
        partial.reduce(&mut reduced);
        assert!(reduced.unwrap.is_empty());
        assert_eq!(reduced.policy, whole.policy);
        Partial(BTreeMap::new()).reduce(&mut reduced);
        assert_eq!(reduced.policy, whole.policy);
    }
}
