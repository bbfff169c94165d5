//! Configurations that an agent refuses when it is to read its own again.

use anyhow::{Context as _, Result};

use super::config::{Carry, CarryNode, Config, Relay, Trust, Unwrap};
use crate::addresses::any;

/// What the agent says when it stays with the configuration that it has.
pub const REFUSED: &str = "configuration is not ";

/// Ways to make a good configuration, which has a steer, an unwrap and a relay, one that this host cannot have; each with its
/// name.
///
/// # Errors
///
/// When it lacks one of these.
pub fn spoilt(good: &Config) -> Result<Vec<(&'static str, Config)>> {
    let unwrap = good.unwrap.first().context("an unwrap")?;
    let relay = good.relay.first().context("a relay")?;
    let taken = any(unwrap.ports.first().context("a port")?.parse()?);
    let change = |change: &dyn Fn(&mut Config)| {
        let mut config = good.clone();
        // What is good about it is not taken up either: these ports are no longer unwrapped and steered.
        config.unwrap[0].ports = vec!["8090".into()];
        config.steer[0].ports = vec!["8091".into()];
        change(&mut config);
        config
    };
    let elsewhere = Unwrap {
        interface: "eth9".into(),
        ports: vec!["8009".into()],
        ..unwrap.clone()
    };
    Ok(vec![
        (
            "with a relay on a port in use",
            change(&|config| {
                config.relay.push(Relay {
                    listen: taken,
                    ..relay.clone()
                });
            }),
        ),
        (
            "with a second unwrap on no interface",
            change(&|config| config.unwrap.push(elsewhere.clone())),
        ),
        (
            "with a misspelt interface of an unwrap",
            change(&|config| config.unwrap[0].interface = "eth9".into()),
        ),
        (
            "with a misspelt interface of a steer",
            change(&|config| config.steer[0].interface = Some("eth9".into())),
        ),
        (
            "with a node on no interface",
            change(&|config| {
                let node = CarryNode {
                    netns: relay.netns.clone(),
                    interface: vec!["eth9".into()],
                    ports: vec!["8009".into()],
                };
                config.carry = Some(Carry {
                    node: vec![node],
                    ..Carry::default()
                });
            }),
        ),
        (
            "with no such namespace",
            change(&|config| {
                config.unwrap.push(Unwrap {
                    netns: Some("/run/netns/tp-none".into()),
                    ..config.unwrap[0].clone()
                });
            }),
        ),
        (
            "with no such cgroup that is trusted",
            change(&|config| config.trust.push(Trust::cgroup("/tp-none".into()))),
        ),
        (
            "with no such cgroup to reveal to",
            change(&|config| config.reveal.cgroups = vec!["/tp-none".into()]),
        ),
        (
            "with no such file of keys",
            change(&|config| config.toa.keys = Some("/run/tp-none".into())),
        ),
        (
            "with a nonsensical port",
            change(&|config| config.unwrap[0].ports = vec!["0-70000".into()]),
        ),
    ])
}
