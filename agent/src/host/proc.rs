//! The processes of `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

/// The ids of all processes that this one can see, in no order.
pub(super) fn pids() -> Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")
        .context("cannot read /proc: mount it with `mount -t proc proc /proc`")?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}
