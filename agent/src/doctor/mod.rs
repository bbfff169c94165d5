//! What works on this host and what does not. Each finding has its reason, and each problem also its consequence and
//! its remedy.

pub(crate) mod capabilities;
mod carry_node;
mod check;
mod configuration;
mod confinement;
mod expressible;
mod kernel;
mod keys;
mod marks;
mod mounts;
mod named;
mod namespace;
mod probe;
mod programs;
mod proxy;
mod sysctls;
mod upkeep;

use std::path::Path;

pub use self::{
    check::{Check, Outcome},
    named::{Named, cgroups, missing, named},
    upkeep::put_back,
};
use crate::{
    config::{Config, Steer},
    host::netns::Netns,
};

/// Checks this host. With `pre`, it checks only what can be known before anything is installed or configured. Otherwise
/// it also checks what `config` needs, and makes a connection through the real data path.
pub fn run(pre: bool, config: &Config) -> Vec<Check> {
    let mut checks = capabilities::check();
    checks.extend(confinement::check());
    checks.extend(kernel::check());
    checks.extend(mounts::check(&config.agent.bpffs));
    let host_is_fit = |checks: &[Check]| checks.iter().all(|c| c.outcome != Outcome::Fail);
    checks.extend(programs::check(host_is_fit(&checks), config));
    if pre {
        return checks;
    }
    checks.extend(config.toa.keys.as_deref().map(keys::check));
    let host_is_fit = host_is_fit(&checks);
    for (path, steers) in by_namespace(&config.steer) {
        match Netns::open_or_current(path) {
            Ok(netns) => {
                checks.extend(namespace::check(&netns, &steers));
                checks.extend(sysctls::check(&netns, &steers));
                checks.extend(marks::check(&netns, &steers));
                checks.extend(proxy::check(&netns, &steers));
            }
            Err(error) => checks.push(namespace::missing(path, &error)),
        }
    }
    checks.extend(carry_node::check(config));
    checks.extend(upkeep::stranded(&config.agent.bpffs));
    checks.extend(configuration::check(config));
    checks.extend(expressible::check(config));
    checks.extend(probe::check(host_is_fit, config));
    checks
}

/// The steers of each network namespace, in the order of the configuration.
fn by_namespace(steers: &[Steer]) -> Vec<(Option<&Path>, Vec<Steer>)> {
    let mut groups: Vec<(Option<&Path>, Vec<Steer>)> = Vec::new();
    for steer in steers {
        let path = steer.netns.as_deref();
        match groups.iter_mut().find(|(known, _)| *known == path) {
            Some((_, group)) => group.push(steer.clone()),
            None => groups.push((path, vec![steer.clone()])),
        }
    }
    groups
}
