//! Removal of whatever bears truepeer's tag.

use anyhow::{Result, anyhow};

use super::{rule, table};
use crate::host::netns::Netns;

/// Removes every rule and route with truepeer's tag from one namespace, and returns their number. Sysctls bear no
/// tag: only a [`Journal`](super::Journal) can restore them.
pub fn sweep(netns: &Netns) -> Result<usize> {
    let mut removed = 0;
    for ipv6 in [false, true] {
        removed += rule::sweep(netns, ipv6)?;
        removed += table::sweep(netns, ipv6)?;
    }
    Ok(removed)
}

/// Sweeps every namespace that this process can see, even if one of them fails, and returns the number of all rules
/// and routes.
pub fn sweep_all() -> Result<usize> {
    let mut removed = 0;
    let mut errors = Vec::new();
    for netns in Netns::all()? {
        match sweep(&netns) {
            Ok(n) => removed += n,
            Err(error) => errors.push(format!("{netns}: {error:#}")),
        }
    }
    joined(errors)?;
    Ok(removed)
}

/// All errors as one, if there are any.
pub(super) fn joined(errors: Vec<String>) -> Result<()> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(anyhow!(errors.join("; ")))
    }
}
