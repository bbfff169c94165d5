//! What the commands that change the host need.

use anyhow::{Context as _, Result, bail};

/// Capabilities by their numbers (`linux/capability.h`). CAP_SYS_ADMIN includes those for BPF.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// Refuses without the capabilities to attach programs and to set up routes.
pub(super) fn require(command: &str) -> Result<()> {
    let status = procfs::process::Process::myself()
        .and_then(|process| process.status())
        .context("cannot read /proc/self/status: mount it with `mount -t proc proc /proc`")?;
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(number, _)| status.capeff & (1 << number) == 0)
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        bail!(
            "`truepeer {command}` needs root ({} missing): type `sudo truepeer {command}`",
            missing.join(", ")
        );
    }
    Ok(())
}
