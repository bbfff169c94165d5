//! The cgroups that the configuration names.

use std::path::Path;

use super::check::{Check, Outcome};
use crate::{
    config::{Config, Proxy, Speakers},
    host::cgroups::cgroup2_mount,
};

pub(super) fn check(config: &Config) -> Vec<Check> {
    // Without the hierarchy, another check fails.
    let Ok(mount) = cgroup2_mount() else {
        return Vec::new();
    };
    let told = config
        .reveal
        .cgroups
        .iter()
        .map(|path| ("[reveal]".to_owned(), path));
    let told = told.filter(|_| config.reveal.enabled);
    let trusted = config.trust.iter().flat_map(|rule| {
        let proxies: &[Proxy] = match &rule.speakers {
            Speakers::Proxies { proxies, .. } => proxies,
            Speakers::Sources { .. } => &[],
        };
        let title = rule.title();
        let paths = proxies.iter().filter_map(|proxy| match proxy {
            Proxy::Cgroup(path) => Some(path),
            Proxy::Uid(_) => None,
        });
        paths.map(move |path| (title.clone(), path))
    });
    let all = told.chain(trusted);
    all.filter(|(_, path)| !is_there(&mount, path))
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

fn is_there(mount: &Path, path: &str) -> bool {
    mount.join(path.trim_start_matches('/')).is_dir()
}
