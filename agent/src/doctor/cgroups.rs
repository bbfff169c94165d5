//! The cgroups that the configuration names.

use super::{
    check::{Check, Outcome},
    named::{Named, cgroups_of_sections},
};
use crate::{config::Config, host::cgroups::cgroup2_mount};

pub(super) fn check(config: &Config) -> Vec<Check> {
    // Without the hierarchy, another check fails.
    let Ok(mount) = cgroup2_mount() else {
        return Vec::new();
    };
    let all = cgroups_of_sections(config);
    let missing = all.filter(|(_, path)| Named::Cgroup((*path).into()).look().is_err());
    missing
        .map(|(title, path)| {
            let shown = mount.display();
            Check::wrong(
                Outcome::Warn,
                title,
                format!("there is no cgroup {path} below {shown}"),
                "the section concerns nobody until there is",
                format!("start what runs in it, or correct the path: `ls {shown}` shows the topmost ones"),
            )
        })
        .collect()
}
