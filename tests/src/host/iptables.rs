//! Rules of iptables, for both address families; they go with their namespace.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::addresses::Family;
use crate::host::netns::{Netns, run};
use crate::host::process::find;

/// Installs what `rules` makes of a family, instead of what is in those tables.
pub fn restore(netns: &Netns, directory: &Path, rules: impl Fn(Family) -> String) -> Result<()> {
    let file = directory.join("iptables-rules");
    for (family, variable, name) in [
        (Family::V4, "IPTABLES_RESTORE_BIN", "iptables-restore"),
        (Family::V6, "IP6TABLES_RESTORE_BIN", "ip6tables-restore"),
    ] {
        fs::write(&file, rules(family))?;
        run(netns.command(&find(variable, name)?)?.arg(&file))?;
    }
    Ok(())
}
