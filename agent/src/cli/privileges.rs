//! The capabilities of commands that change the host.

use anyhow::{Result, bail};

use crate::doctor::capabilities::{self, Capability, NET_ADMIN, SYS_ADMIN};

/// The capabilities to attach programs and to set up routes. CAP_SYS_ADMIN includes those for BPF.
const NEEDED: [Capability; 2] = [NET_ADMIN, SYS_ADMIN];

/// Fails unless this process has the capabilities to run `command`.
pub(super) fn require(command: &str) -> Result<()> {
    let effective = capabilities::effective()?;
    let missing = NEEDED.iter().filter(|c| !c.is_in(effective));
    let missing: Vec<_> = missing.map(|c| c.1).collect();
    if !missing.is_empty() {
        bail!(
            "`truepeer {command}` needs root ({} missing): type `sudo truepeer {command}`",
            missing.join(", ")
        );
    }
    Ok(())
}
