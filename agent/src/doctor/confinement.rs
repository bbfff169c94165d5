//! The security module's profile of this process.

use std::{fs, io};

use super::check::{Check, Outcome};
use crate::host::confinement::profile;

const NAME: &str = "confinement";
/// Telling where it leads takes the right to look into another process.
const OF_ANOTHER: &str = "/proc/1/ns/net";

/// Names the profile, if there is one. What it denies is what other checks fail by; that it hides other processes is
/// told here, since nothing fails by it.
pub(super) fn check() -> Option<Check> {
    let profile = profile()?;
    let hides_processes =
        fs::read_link(OF_ANOTHER).is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
    Some(if hides_processes {
        Check::wrong(
            Outcome::Warn,
            NAME,
            format!("the security module's profile {profile} hides other processes"),
            "truepeer cannot tell the process of a connection, nor find network namespaces without a name",
            "allow ptrace (read, trace) and CAP_SYS_PTRACE in the profile",
        )
    } else {
        Check::ok(NAME, format!("by the security module's profile {profile}"))
    })
}
