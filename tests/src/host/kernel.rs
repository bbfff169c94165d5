//! Which kernel the scenarios run on.

use anyhow::{Context, Result};

/// Whether tc brings connections to listeners that share their port (`SO_REUSEPORT`). Where it does not, a sidecar's go
/// by `sk_lookup`, and a gateway's pass.
pub fn steers_to_shared_ports() -> Result<bool> {
    is_at_least(6, 6)
}

/// Whether the kernel is of this version or a newer one.
pub fn is_at_least(major: u32, minor: u32) -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut number = || anyhow::Ok(numbers.next().context("a number")??);
    Ok((number()?, number()?) >= (major, minor))
}
