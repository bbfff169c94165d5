//! Which kernel the scenarios run on.

use anyhow::{Context, Result};

/// Whether the kernel is of this version or a newer one.
pub fn is_at_least(major: u32, minor: u32) -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut number = || anyhow::Ok(numbers.next().context("a number")??);
    Ok((number()?, number()?) >= (major, minor))
}
