//! What works on this host and what does not. Each finding has its reason, and each problem also its consequence and
//! its remedy.

mod attached;
pub(crate) mod capabilities;
mod carry_node;
mod cgroups;
mod check;
mod configuration;
mod confinement;
mod elsewhere;
mod expressible;
mod kernel;
mod keys;
mod life;
mod marks;
mod mounts;
mod named;
mod namespace;
mod probe;
mod programs;
mod proxy;
mod relays;
mod routes;
mod sysctls;
mod unwraps;
mod upkeep;

use std::path::Path;

pub use self::{
    check::{Check, Outcome},
    life::Life,
    named::{Named, cgroups, missing, named},
};
use crate::{
    config::{Config, Relay, Steer},
    host::netns::Netns,
};

/// Checks this host. With `pre`, it checks only what can be known before anything is installed or configured. Otherwise
/// it also checks what `config` needs and what is in place, and makes a connection through the real data path. `life` is
/// what the agent's socket tells of it.
pub fn run(pre: bool, config: &Config, life: impl FnOnce() -> Life) -> Vec<Check> {
    let mut checks = capabilities::check();
    checks.extend(confinement::check());
    checks.extend(kernel::check());
    checks.extend(mounts::check(&config.agent.bpffs));
    let host_is_fit = |checks: &[Check]| checks.iter().all(|c| c.outcome != Outcome::Fail);
    checks.extend(programs::check(host_is_fit(&checks), config));
    if pre {
        return checks;
    }
    let host_is_fit = host_is_fit(&checks);
    checks.extend(config.toa.keys.as_deref().map(keys::check));
    let (life, in_place) = (life(), life::is_in_place(config));
    checks.push(life::check(&life, config));
    if let Life::Answers { put_back, .. } = &life {
        checks.extend(upkeep::put_back(put_back));
    }
    if in_place {
        checks.extend(attached::check(config));
        let relays = config.relay.iter().filter_map(Relay::route);
        let steers: Vec<_> = config.steer.iter().cloned().chain(relays).collect();
        for (path, steers) in by_namespace(&steers) {
            // A namespace that is missing is another check's finding.
            if let Ok(netns) = Netns::open_or_current(path) {
                checks.extend(routes::check(&netns, &steers));
            }
        }
    }
    for (path, steers) in by_namespace(&config.steer) {
        match Netns::open_or_current(path) {
            Ok(netns) => {
                checks.extend(namespace::check(&netns, &steers));
                checks.extend(sysctls::check(&netns, &steers, in_place));
                checks.extend(marks::check(&netns, &steers));
                checks.extend(proxy::check(&netns, &steers));
            }
            Err(error) => checks.push(namespace::missing(path, &error)),
        }
    }
    checks.extend(unwraps::check(config));
    checks.extend(relays::check(&life, config));
    checks.extend(carry_node::check(config));
    checks.extend(cgroups::check(config));
    checks.extend(upkeep::stranded(&config.agent.bpffs));
    checks.extend(configuration::check(config));
    checks.extend(elsewhere::check(config));
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
