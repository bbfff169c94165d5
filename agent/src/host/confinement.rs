//! The profile by which a security module confines this process, and may deny what its capabilities would allow.

use std::{fs, io};

use anyhow::{Error, anyhow};
use nix::errno::Errno;

/// The calling thread's label, from the module that was asked first (proc_pid_attr(5)).
const LABEL: &str = "/proc/thread-self/attr/current";

/// The profile or the context in force, in the kernel's words: `truepeer (enforce)`, or
/// `system_u:system_r:container_t:s0`. `None` when nothing is denied by one.
pub fn profile() -> Option<String> {
    match fs::read_to_string(LABEL) {
        Ok(label) => enforced(&label).map(|label| format!("\"{label}\"")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Some("which hides its name".to_owned())
        }
        // No module has such a thing.
        Err(_) => None,
    }
}

/// The label, unless it stands for no confinement or for one that only tells.
fn enforced(label: &str) -> Option<&str> {
    let label = label.trim_end_matches(['\0', '\n']);
    // AppArmor's modes, in brackets, and SELinux's types, between user, role and level.
    let is_free = ["unconfined", "(unconfined)", "(complain)"]
        .iter()
        .any(|mode| label.ends_with(mode))
        || label
            .split(':')
            .nth(2)
            .is_some_and(|kind| kind.starts_with("unconfined") || kind == "spc_t");
    (!is_free && !label.is_empty()).then_some(label)
}

/// What to do about an error, if a profile confines this process and may be its cause.
pub fn remedy_of(error: &Error) -> Option<String> {
    is_denial(error).then(remedy).flatten()
}

/// What to do if it was a profile that denied something; `None` when none confines this process.
pub fn remedy() -> Option<String> {
    profile().map(|profile| {
        format!(
            "a security module confines this process by the profile {profile}: allow in it what the kernel's log says \
             that it denied (`dmesg | grep -iw denied`)"
        )
    })
}

/// The error that the kernel refused what needs this capability.
pub fn lacks(capability: &str) -> Error {
    match profile() {
        Some(profile) => anyhow!(
            "{capability} is denied by the security module's profile {profile}: allow it in the profile"
        ),
        None => anyhow!("{capability} is missing: run as root"),
    }
}

/// Whether the kernel refused something for lack of permission.
fn is_denial(error: &Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            || matches!(
                cause.downcast_ref::<Errno>(),
                Some(Errno::EPERM | Errno::EACCES)
            )
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn profiles_that_deny_are_told_from_those_that_do_not() {
        for free in [
            "unconfined\n",
            "docker-default (complain)\n",
            "snap (unconfined)\n",
            "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0",
            "system_u:system_r:spc_t:s0\0",
            "",
        ] {
            assert_eq!(enforced(free), None, "{free}");
        }
        for confined in ["truepeer (enforce)", "system_u:system_r:container_t:s0:c1"] {
            assert_eq!(enforced(&format!("{confined}\n")), Some(confined));
        }
    }

    #[test]
    fn a_denial_is_found_below_its_context() {
        let denied = io::Error::from_raw_os_error(nix::libc::EACCES);
        assert!(is_denial(&Error::new(denied).context("cannot open")));
        let denied = Err::<(), _>(Errno::EPERM).context("cannot enter");
        assert!(is_denial(&denied.unwrap_err()));
        assert!(!is_denial(&anyhow!("another")));
    }
}
