//! guard: who may connect, by the policies in their maps.

use std::{
    collections::{HashMap, HashSet},
    thread,
    time::Duration,
};

use agent_common::{
    Address,
    guard::{self, Prefix, Tally, Verdict},
    origin::rule_id,
};
use anyhow::{Context as _, Result};
use aya::{
    maps::{MapError, PerCpuValues, lpm_trie::Key},
    util::nr_cpus,
};
use nix::libc;

use super::{
    maps::{self, NOEXIST, Plain, Policies, PolicyPrefixes, found},
    object::Datapath,
    pins::Pins,
};
use crate::config::Policy;

/// `MEMBARRIER_CMD_GLOBAL` of linux/membarrier.h.
const GLOBAL: libc::c_int = 1;

impl Datapath {
    /// Makes these policies hold and no others.
    pub(super) fn guard(&self, policies: &[Policy]) -> Result<()> {
        replace(&self.pins, policies)
    }
}

/// Makes these policies hold and no others. Each port goes over in one step: at no moment is anybody
/// judged by a part of a policy.
fn replace(pins: &Pins, policies: &[Policy]) -> Result<()> {
    let mut ports = pins.policies()?;
    let used = groups(&ports)?;
    // What a former agent did not finish.
    sweep(pins, &used)?;
    let first = used.iter().max().map_or(0, |last| last + 1);
    let numbered = || (first..).zip(policies);

    let mut trie = pins.policy_prefixes()?;
    for (group, policy) in numbered() {
        for (prefix, verdict) in &policy.prefixes {
            let address = Address::from(prefix.network());
            let length = Prefix::SCOPE + maps::prefix_length(prefix);
            let key = Key::new(length, Plain(Prefix::new(group, address)));
            trie.insert(&key, *verdict as u32, 0)
                .with_context(|| format!("cannot store {prefix} of policy \"{}\"", policy.name))?;
        }
    }
    let mut tallies = pins.tallies()?;
    let rules: HashSet<u32> = policies.iter().map(|p| rule_id(&p.rule())).collect();
    for rule in &rules {
        let zero = PerCpuValues::try_from(vec![Tally::default(); cpus()?])?;
        match tallies.insert(rule, zero, NOEXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
            inserted => inserted?,
        }
    }

    let wanted = numbered().flat_map(|(group, policy)| {
        let value = guard::Policy {
            group,
            rule: rule_id(&policy.rule()),
            otherwise: policy.otherwise as u32,
        };
        let ports = policy.ports.iter().cloned().flatten();
        ports.map(move |port| (u32::from(port), Plain(value)))
    });
    maps::replace(&mut ports, wanted)?;

    if !used.is_empty() {
        wait_for_programs();
    }
    sweep(pins, &groups(&ports)?)?;
    let known: Vec<u32> = tallies.keys().collect::<Result<_, _>>()?;
    for rule in known.iter().filter(|rule| !rules.contains(rule)) {
        tallies.remove(rule)?;
    }
    Ok(())
}

/// What the programs would decide, for clients that the agent's own relay learns.
pub(super) fn allows(
    policies: &Policies,
    prefixes: &PolicyPrefixes,
    client: Address,
    port: u16,
) -> Result<bool> {
    let mut policy = found(policies.get(&u32::from(port), 0))?;
    while let Some(Plain(current)) = policy {
        let key = Key::new(Prefix::BITS, Plain(Prefix::new(current.group, client)));
        let verdict = found(prefixes.get(&key, 0))?.unwrap_or(current.otherwise);
        // Nobody waits for this thread: the prefixes may have gone meanwhile.
        let now = found(policies.get(&u32::from(port), 0))?;
        if now == policy {
            return Ok(verdict == Verdict::Allow as u32);
        }
        policy = now;
    }
    Ok(true)
}

/// What each policy has let in and refused, by its rule.
pub(super) fn tallies(pins: &Pins) -> Result<HashMap<u32, Tally>> {
    let mut all = HashMap::new();
    for entry in pins.tallies()?.iter() {
        let (rule, values) = entry?;
        let sum = values.iter().fold(Tally::default(), |sum, value| {
            [sum[0] + value[0], sum[1] + value[1]]
        });
        all.insert(rule, sum);
    }
    Ok(all)
}

/// The groups that ports use.
fn groups(ports: &Policies) -> Result<HashSet<u32>> {
    let policies = ports.iter().map(|entry| Ok(entry?.1.0.group));
    policies.collect()
}

/// Removes the prefixes of all other groups.
fn sweep(pins: &Pins, used: &HashSet<u32>) -> Result<()> {
    let mut trie = pins.policy_prefixes()?;
    let keys: Vec<_> = trie.keys().collect::<Result<_, _>>()?;
    for key in keys {
        let Plain(prefix) = key.data();
        if !used.contains(&prefix.group()) {
            trie.remove(&key)?;
        }
    }
    Ok(())
}

/// Waits until no program runs that may have read a port's former policy: the barrier ends with a grace
/// period of RCU, within which programs run.
fn wait_for_programs() {
    // SAFETY: the call takes two numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0) };
    if result != 0 {
        // Kernels with `nohz_full` have none. No program runs nearly as long.
        thread::sleep(Duration::from_millis(100));
    }
}

fn cpus() -> Result<usize> {
    nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))
}
