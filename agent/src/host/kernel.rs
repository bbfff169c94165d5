//! The kernel's release.

use agent_common::kernel;
use anyhow::Result;

/// Major and minor number of a release.
pub type Version = (u32, u32);

/// The release of the running kernel, as `uname -r` prints it.
pub fn release() -> Result<String> {
    Ok(nix::sys::utsname::uname()?
        .release()
        .to_string_lossy()
        .into_owned())
}

/// Major and minor number of a release.
pub fn version(release: &str) -> Version {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The running kernel's version, as BPF programs are told.
pub fn running() -> Result<kernel::Version> {
    let (major, minor) = version(&release()?);
    Ok(kernel::Version::new(major.try_into()?, minor.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_any_release() {
        assert_eq!(version("6.18.44-fc-v445"), (6, 18));
        assert_eq!(version("5.14.0-362.el9.x86_64"), (5, 14));
        assert_eq!(version("7-rc1"), (7, 0));
    }

    #[test]
    fn the_running_kernel_has_a_version() {
        assert!(version(&release().unwrap()) >= (5, 0));
    }
}
